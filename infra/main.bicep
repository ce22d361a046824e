targetScope = 'subscription'

@minLength(1)
@maxLength(40)
@description('Name of the environment; resource names come from it.')
param environmentName string

@minLength(1)
@description('Region. It must have Flex Consumption: az functionapp list-flexconsumption-locations')
@metadata({
  azd: {
    type: 'location'
  }
})
param location string

@description('Who deploys: gets to drop files and fetch results. Empty: nobody.')
param principalId string = ''

@allowed([
  512
  2048
  4096
])
@description('Memory of an instance, in MB, shared by the host and the worker.')
param instanceMemoryMB int = 2048

@minValue(1)
@maxValue(1000)
@description('The most instances that each of the app\'s functions gets. Below 40 is new, and not in every region yet.')
param maximumInstanceCount int = 40

@allowed([
  'upload'
  'blob'
])
@description('How a part reaches the service; blob: it reads and writes the storage account itself.')
param submitMode string = 'upload'

@description('An Azure OpenAI account that is there already, with a custom sub-domain; empty: a new one is made.')
param existingOpenAiName string = ''

@description('Its resource group, in this subscription; needed with existingOpenAiName.')
param existingOpenAiResourceGroup string = ''

@description('The name of the new deployment: what stands as body.model in a line. It names no model, for models retire.')
param deploymentName string = 'batch'

@description('The model of the new deployment; docs/deploy.md says how to list those that your region has for batches.')
param modelName string = 'gpt-5.4-mini'
param modelVersion string = '2026-03-17'

@allowed([
  'GlobalBatch'
  'DataZoneBatch'
])
param deploymentSku string = 'GlobalBatch'

@minValue(1)
@description('Tokens that may be enqueued, in thousands. More than the subscription\'s quota fails: 90 is what the smallest have.')
param deploymentCapacity int = 90

@description('True: a virtual network, with private endpoints to storage and to the new Azure OpenAI account.')
param privateNetwork bool = false

@description('Resource id of the action group that alerts tell; empty: alerts stand in the portal only.')
param actionGroupId string = ''

@description('A vault that holds an API key, for an existing account that takes keys alone. Empty: Entra ID, no key.')
param keyVaultName string = ''

@description('The vault\'s resource group, in this subscription; needed with keyVaultName.')
param keyVaultResourceGroup string = ''
param keySecretName string = 'azure-openai-api-key'

@minValue(60)
@description('How many days inputs of finished jobs are kept.')
param archiveDays int = 180

@minValue(60)
@description('After how many days leftovers of the app\'s own, and dead letters, are deleted.')
param workDays int = 60

@minValue(1)
@maxValue(365)
@description('How many days a deleted or overwritten blob can be brought back.')
param softDeleteDays int = 14

@minValue(30)
@maxValue(730)
@description('How many days logs are kept.')
param logDays int = 30

@description('More settings of the app, by their names in the README; those that this file sets itself win.')
param moreSettings object = {}

var tags = {
  'azd-env-name': environmentName
}
var token = toLower(uniqueString(subscription().id, environmentName, location))
var storageName = 'st${token}'
var newOpenAi = empty(existingOpenAiName)
var openAiName = newOpenAi ? 'oai-${token}' : existingOpenAiName
var blobMode = submitMode == 'blob'
var deploymentTokens = deploymentCapacity * 1000

// Azure works out the group's name before it makes anything, so a parameter that is missing is named in time.
var noAccountGroup = !newOpenAi && empty(existingOpenAiResourceGroup)
var noVaultGroup = !empty(keyVaultName) && empty(keyVaultResourceGroup)
var missing = noAccountGroup ? 'existingOpenAiResourceGroup (azd env set EXISTING_OPENAI_RESOURCE_GROUP <group>) is missing, and needed with existingOpenAiName' : (noVaultGroup ? 'keyVaultResourceGroup (azd env set KEY_VAULT_RESOURCE_GROUP <group>) is missing, and needed with keyVaultName' : '')
var groupName = empty(missing) ? 'rg-${environmentName}' : fail(missing)
// The app's own group stands in where a module is not deployed: Azure checks its scope all the same, and takes no empty one.
var accountGroup = newOpenAi ? groupName : existingOpenAiResourceGroup
var vaultGroup = empty(keyVaultName) ? groupName : keyVaultResourceGroup

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: groupName
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  name: 'identity'
  scope: group
  params: {
    name: 'id-${token}'
    location: location
    tags: tags
  }
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    workspaceName: 'log-${token}'
    insightsName: 'appi-${token}'
    location: location
    tags: tags
    retentionDays: logDays
  }
}

module newAccount 'modules/openai.bicep' = if (newOpenAi) {
  name: 'openai'
  scope: group
  params: {
    name: openAiName
    location: location
    tags: tags
    isPrivate: privateNetwork
    deploymentName: deploymentName
    modelName: modelName
    modelVersion: modelVersion
    skuName: deploymentSku
    capacity: deploymentCapacity
  }
}

module existingAccount 'modules/openai-existing.bicep' = if (!newOpenAi) {
  name: 'openai-existing'
  scope: resourceGroup(accountGroup)
  params: {
    name: existingOpenAiName
    needsIdentity: blobMode
  }
}

module openAiRole 'modules/openai-role.bicep' = {
  name: 'openai-role-${token}'
  scope: resourceGroup(accountGroup)
  params: {
    accountName: openAiName
    principalId: identity.outputs.principalId
  }
  dependsOn: [
    newAccount
  ]
}

module storage 'modules/storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    name: storageName
    location: location
    tags: tags
    isPrivate: privateNetwork
    readerResourceId: blobMode ? (newOpenAi ? newAccount!.outputs.id : existingAccount!.outputs.id) : ''
    archiveDays: archiveDays
    workDays: workDays
    softDeleteDays: softDeleteDays
  }
}

module roles 'modules/roles.bicep' = {
  name: 'roles'
  scope: group
  params: {
    storageName: storage.outputs.name
    insightsName: monitoring.outputs.insightsName
    appPrincipalId: identity.outputs.principalId
    userPrincipalId: principalId
    servicePrincipalId: blobMode ? (newOpenAi ? newAccount!.outputs.principalId : existingAccount!.outputs.principalId) : ''
  }
}

module vaultRole 'modules/vault-role.bicep' = if (!empty(keyVaultName)) {
  name: 'vault-role-${token}'
  scope: resourceGroup(vaultGroup)
  params: {
    vaultName: keyVaultName
    principalId: identity.outputs.principalId
  }
}

module network 'modules/network.bicep' = if (privateNetwork) {
  name: 'network'
  scope: group
  params: {
    name: 'vnet-${token}'
    location: location
    tags: tags
    storageId: storage.outputs.id
    openAiId: newOpenAi ? newAccount!.outputs.id : ''
  }
}

module app 'modules/function.bicep' = {
  name: 'app'
  scope: group
  params: {
    name: 'func-${token}'
    planName: 'plan-${token}'
    location: location
    tags: tags
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    storageName: storage.outputs.name
    blobEndpoint: storage.outputs.blobEndpoint
    queueEndpoint: storage.outputs.queueEndpoint
    tableEndpoint: storage.outputs.tableEndpoint
    openAiEndpoint: newOpenAi ? newAccount!.outputs.endpoint : existingAccount!.outputs.endpoint
    openAiId: newOpenAi ? newAccount!.outputs.id : existingAccount!.outputs.id
    insightsConnectionString: monitoring.outputs.connectionString
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    subnetId: privateNetwork ? network!.outputs.appSubnetId : ''
    submitMode: submitMode
    tokenLimits: newOpenAi ? '${deploymentName}=${deploymentTokens}' : ''
    keyVaultName: keyVaultName
    keySecretName: keySecretName
    moreSettings: moreSettings
  }
  // The app reads its package and the key with its roles: they come first.
  dependsOn: [
    roles
    openAiRole
    vaultRole
  ]
}

module events 'modules/events.bicep' = {
  name: 'events'
  scope: group
  params: {
    name: 'evgt-${token}'
    location: location
    tags: tags
    storageName: storage.outputs.name
  }
}

module alerts 'modules/alerts.bicep' = {
  name: 'alerts'
  scope: group
  params: {
    prefix: 'func-${token}'
    location: location
    tags: tags
    insightsId: monitoring.outputs.insightsId
    actionGroupId: actionGroupId
  }
}

module workbook 'modules/workbook.bicep' = {
  name: 'workbook'
  scope: group
  params: {
    location: location
    tags: tags
    insightsId: monitoring.outputs.insightsId
  }
}

output AZURE_LOCATION string = location
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_FUNCTION_APP_NAME string = app.outputs.name
output AZURE_FUNCTION_APP_HOST string = app.outputs.hostName
output AZURE_STORAGE_ACCOUNT_NAME string = storage.outputs.name
output AZURE_EVENT_TOPIC_NAME string = events.outputs.name
output AZURE_OPENAI_ACCOUNT_NAME string = openAiName
// Empty for an existing account: its deployments are its owner's.
output AZURE_OPENAI_DEPLOYMENT_NAME string = newOpenAi ? deploymentName : ''
