// An Azure OpenAI account that is there already, of kind OpenAI or AIServices. It must have a custom sub-domain.
param name string
@description('SUBMIT_MODE is blob: the account must have its system-assigned identity on.')
param needsIdentity bool

resource account 'Microsoft.CognitiveServices/accounts@2024-10-01' existing = {
  name: name
}

var subDomain = account.properties.?customSubDomainName ?? fail('${name} has no custom sub-domain: batches need one. Set it once, for good: az cognitiveservices account update --name ${name} --resource-group ${resourceGroup().name} --custom-domain <unique name>')
var principal = account.?identity.?principalId ?? fail('${name} has no system-assigned identity: SUBMIT_MODE=blob needs one. az cognitiveservices account identity assign --name ${name} --resource-group ${resourceGroup().name}')

output id string = account.id
// Of kind AIServices, properties.endpoint is at cognitiveservices.azure.com, where the batch routes are not.
output endpoint string = 'https://${subDomain}.openai.azure.com/'
output principalId string = needsIdentity ? principal : ''
