// Who may do what to storage and monitoring. tests/infra holds this to the calls in the code, both ways.
param storageName string
param insightsName string
@description('The app')
param appPrincipalId string
@description('Who deploys, to be able to drop a file and fetch its results; empty for nobody.')
param userPrincipalId string
@description('The Azure OpenAI account, where SUBMIT_MODE is blob; empty else.')
param servicePrincipalId string

var roles = loadJsonContent('../roles.json')
var names = loadJsonContent('../names.json')

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageName
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' existing = {
  parent: storage
  name: 'default'
}

resource archive 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' existing = {
  parent: blobs
  name: names.containers.ARCHIVE_CONTAINER
}

resource work 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' existing = {
  parent: blobs
  name: names.containers.WORK_CONTAINER
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

// Drops, results, reports, archive, work; for the host: locks, timer state and its package. The host's documentation
// asks for Owner on the account of AzureWebJobsStorage; the app's own calls would do with Contributor.
resource appBlobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, appPrincipalId, 'Storage Blob Data Owner')
  scope: storage
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Storage Blob Data Owner'])
  }
}

// Triggers read and delete messages, the app sends; the host makes the queue of the blob trigger, and counts.
resource appQueues 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, appPrincipalId, 'Storage Queue Data Contributor')
  scope: storage
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Storage Queue Data Contributor'])
  }
}

// The ledger: jobs, parts and deployments.
resource appTables 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, appPrincipalId, 'Storage Table Data Contributor')
  scope: storage
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Storage Table Data Contributor'])
  }
}

// Logs and metrics are sent with the identity, since local auth is off.
resource appInsights 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(insights.id, appPrincipalId, 'Monitoring Metrics Publisher')
  scope: insights
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Monitoring Metrics Publisher'])
  }
}

// SUBMIT_MODE=blob: the service reads a drop straight from its copy in the archive.
resource serviceReads 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(servicePrincipalId)) {
  name: guid(archive.id, servicePrincipalId, 'Storage Blob Data Reader')
  scope: archive
  properties: {
    principalId: servicePrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Storage Blob Data Reader'])
  }
}

// SUBMIT_MODE=blob: the service reads picked lines from the work container, and writes its results there.
resource serviceWrites 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(servicePrincipalId)) {
  name: guid(work.id, servicePrincipalId, 'Storage Blob Data Contributor')
  scope: work
  properties: {
    principalId: servicePrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Storage Blob Data Contributor'])
  }
}

// Whoever deploys drops a file and fetches its results: with shared keys off, Owner of the account alone may not.
resource userBlobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(userPrincipalId)) {
  name: guid(storage.id, userPrincipalId, 'Storage Blob Data Contributor')
  scope: storage
  properties: {
    principalId: userPrincipalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Storage Blob Data Contributor'])
  }
}
