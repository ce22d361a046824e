// The figures of the dashboard over time, in Azure Monitor.
param location string
param tags object
param insightsId string

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(insightsId, 'batch_fn')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'batch_fn'
    category: 'workbook'
    sourceId: insightsId
    serializedData: loadTextContent('../workbook.json')
  }
}
