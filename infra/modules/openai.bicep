// A new Azure OpenAI account with one batch deployment.
param name string
param location string
param tags object
param isPrivate bool
param deploymentName string
param modelName string
param modelVersion string
@description('GlobalBatch or DataZoneBatch')
param skuName string
@description('Thousands of tokens that may be enqueued.')
param capacity int

resource account 'Microsoft.CognitiveServices/accounts@2024-10-01' = {
  // checkov:skip=CKV_AZURE_134: public without a private network, for callers with Entra ID only; local auth is off
  name: name
  location: location
  tags: tags
  kind: 'OpenAI'
  identity: {
    type: 'SystemAssigned' // with it the service reads and writes blobs when SUBMIT_MODE is blob
  }
  sku: {
    name: 'S0'
  }
  properties: {
    customSubDomainName: name // batch and Entra ID need one
    disableLocalAuth: true
    publicNetworkAccess: isPrivate ? 'Disabled' : 'Enabled'
    networkAcls: {
      defaultAction: isPrivate ? 'Deny' : 'Allow'
    }
  }
}

// Dynamic quota is set by the postprovision hook. Here it could stop a first deployment: the account's property of that
// name has been refused for this kind of account, and the deployment's is read-only by its type.
resource deployment 'Microsoft.CognitiveServices/accounts/deployments@2024-10-01' = {
  parent: account
  name: deploymentName
  sku: {
    name: skuName
    capacity: capacity
  }
  properties: {
    model: {
      format: 'OpenAI'
      name: modelName
      version: modelVersion
    }
  }
}

output id string = account.id
output endpoint string = account.properties.endpoint
output principalId string = account.identity.principalId
