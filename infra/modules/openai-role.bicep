// What the app may do at the Azure OpenAI account, in that account's resource group.
param accountName string
param principalId string

var roles = loadJsonContent('../roles.json')

resource account 'Microsoft.CognitiveServices/accounts@2024-10-01' existing = {
  name: accountName
}

// Files and batches: upload, read, delete, create, cancel. The User role is for inference, it lacks files/write and
// batch-jobs/write; Contributor is the smallest built-in role that has them.
resource service 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(account.id, principalId, 'Cognitive Services OpenAI Contributor')
  scope: account
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles['Cognitive Services OpenAI Contributor'])
  }
}
