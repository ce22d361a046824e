// An Azure OpenAI account that is there already. It must have a custom sub-domain.
param name string
@description('SUBMIT_MODE is blob: the account must have its system-assigned identity on.')
param needsIdentity bool

resource account 'Microsoft.CognitiveServices/accounts@2024-10-01' existing = {
  name: name
}

output id string = account.id
output endpoint string = account.properties.endpoint
output principalId string = needsIdentity ? account.identity.principalId : ''
