// The alerts of docs/operations.md. Each query returns a row for each thing that is wrong, and none when all is well.
param prefix string
param location string
param tags object
param insightsId string
@description('Whom to tell; empty: the alerts stand in the portal only.')
param actionGroupId string

var alerts = [
  {
    name: 'failed-jobs'
    title: 'A job failed'
    query: loadTextContent('../alerts/failed-jobs.kql')
    severity: 2
    every: 'PT5M'
    window: 'PT1H'
  }
  {
    name: 'poison-messages'
    title: 'The host gave up on a message'
    query: loadTextContent('../alerts/poison-messages.kql')
    severity: 1
    every: 'PT5M'
    window: 'PT1H'
  }
  {
    name: 'tick-not-run'
    title: 'The tick has not run for 10 minutes'
    query: loadTextContent('../alerts/tick-not-run.kql')
    severity: 1
    every: 'PT5M'
    window: 'PT10M'
  }
  {
    name: 'old-job'
    title: 'A job is older than 36 hours'
    query: loadTextContent('../alerts/old-job.kql')
    severity: 2
    every: 'PT5M'
    window: 'PT30M'
  }
  {
    name: 'quota-wait'
    title: 'A part has waited longer than a day for token quota'
    query: loadTextContent('../alerts/quota-wait.kql')
    severity: 3
    every: 'PT5M'
    window: 'PT2H'
  }
]

resource rules 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [for alert in alerts: {
  name: '${prefix}-${alert.name}'
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: alert.title
    severity: alert.severity
    enabled: true
    scopes: [
      insightsId
    ]
    evaluationFrequency: alert.every
    windowSize: alert.window
    autoMitigate: true
    skipQueryValidation: true // a fresh Application Insights has no tables yet
    criteria: {
      allOf: [
        {
          query: alert.query
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
          failingPeriods: {
            numberOfEvaluationPeriods: 1
            minFailingPeriodsToAlert: 1
          }
        }
      ]
    }
    actions: {
      actionGroups: empty(actionGroupId) ? [] : [
        actionGroupId
      ]
    }
  }
}]
