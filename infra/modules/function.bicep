// The app, on Flex Consumption.
param name string
param planName string
param location string
param tags object
param identityId string
param identityClientId string
param storageName string
param blobEndpoint string
param queueEndpoint string
param tableEndpoint string
param openAiEndpoint string
@description('With it the doctor sees SKU, model and retirement of each deployment.')
param openAiId string
param insightsConnectionString string
@description('512, 2048 or 4096; shared by the host and the worker.')
param instanceMemoryMB int
param maximumInstanceCount int
@description('The subnet for outbound calls; empty for none.')
param subnetId string
param submitMode string
@description('What the new deployment takes, as the setting TOKEN_LIMITS; empty: what the service tells.')
param tokenLimits string
@description('The vault and the secret that hold an API key; empty: Entra ID, no key anywhere.')
param keyVaultName string
param keySecretName string
@description('More of the settings of batch_fn/settings.py, by their names.')
param moreSettings object

var names = loadJsonContent('../names.json')

var hostSettings = {
  // The host's own storage, by identity
  AzureWebJobsStorage__accountName: storageName
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identityClientId
  // The triggers' connection; the app reads the addresses and the client id too
  BatchStorage__blobServiceUri: blobEndpoint
  BatchStorage__queueServiceUri: queueEndpoint
  BatchStorage__tableServiceUri: tableEndpoint
  BatchStorage__credential: 'managedidentity'
  BatchStorage__clientId: identityClientId
  // DefaultAzureCredential takes a user-assigned identity only if told which
  AZURE_CLIENT_ID: identityClientId
  APPLICATIONINSIGHTS_CONNECTION_STRING: insightsConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
  // Not below host.json's batchSize and maxDegreeOfParallelism: the host does not know how many threads there are
  PYTHON_THREADPOOL_THREAD_COUNT: '8'
  AZURE_OPENAI_ENDPOINT: openAiEndpoint
  AZURE_OPENAI_RESOURCE_ID: openAiId
  AZURE_RESOURCE_MANAGER: environment().resourceManager
  SUBMIT_MODE: submitMode
}
// host.json leaves the host's OpenTelemetry mode off. With it on, the exporter to Application Insights keeps five traces a
// second, drops the log records of the others, and heeds nothing of host.json's sampling: job_finished could be among what
// is dropped, and the alerts blind. Where TELEMETRY asks for the mode, the sampler is told to keep all.
var telemetrySettings = moreSettings.?TELEMETRY == 'otlp' ? {
  AzureFunctionsJobHost__telemetryMode: 'OpenTelemetry'
  OTEL_TRACES_SAMPLER: 'microsoft.fixed_percentage'
  OTEL_TRACES_SAMPLER_ARG: '1.0'
  // The collector's address is the app's too, and the app speaks HTTP; the host would speak gRPC.
  OTEL_EXPORTER_OTLP_PROTOCOL: 'http/protobuf'
} : {}
// A drop that is larger than the whole limit is made into parts that fit, once the limit is known; whether the service tells
// it in time is not certain, and a small quota is less than half a megabyte of text.
var limitSettings = empty(tokenLimits) ? {} : {
  TOKEN_LIMITS: tokenLimits
}
var keySettings = empty(keyVaultName) ? {} : {
  AZURE_OPENAI_API_KEY: '@Microsoft.KeyVault(VaultName=${keyVaultName};SecretName=${keySecretName})'
}

resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
  // checkov:skip=CKV_AZURE_225: zone redundancy is not in every region of this plan; a lost event or message is found again
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
  }
}

resource app 'Microsoft.Web/sites@2024-04-01' = {
  // checkov:skip=CKV_AZURE_17: callers hold keys, not client certificates, and Event Grid can send none
  // checkov:skip=CKV_AZURE_212: Flex Consumption starts instances when there is work, and none else
  // checkov:skip=CKV_AZURE_78: this plan has no FTP
  // checkov:skip=CKV_AZURE_213: this plan has no health check; the tick's alert says when nothing runs
  // checkov:skip=CKV_AZURE_222: Event Grid calls the app's webhook from the internet
  name: name
  location: location
  tags: union(tags, {
    'azd-service-name': 'app'
  })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    keyVaultReferenceIdentity: identityId
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    siteConfig: {
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      http20Enabled: true
      remoteDebuggingEnabled: false
    }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${blobEndpoint}${names.deploymentContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: {
        name: 'python'
        version: '3.13'
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
      }
    }
  }
}

resource settings 'Microsoft.Web/sites/config@2024-04-01' = {
  // What follows concerns the resource `web` of the same type; this one is the list of application settings.
  // checkov:skip=CKV_AZURE_13: function keys and Event Grid's system key guard the app; nobody signs in with a browser
  // checkov:skip=CKV_AZURE_63: Application Insights has the requests; this plan has no web server log
  // checkov:skip=CKV_AZURE_65: the same, for detailed errors
  // checkov:skip=CKV_AZURE_66: the same, for failed requests
  // checkov:skip=CKV_AZURE_80: no .NET here, it is Python
  // checkov:skip=CKV_AZURE_88: this plan has no Azure Files
  // checkov:skip=CKV_AZURE_222: see the app
  parent: app
  name: 'appsettings'
  properties: union(limitSettings, moreSettings, names.containers, names.queues, names.tables, hostSettings, telemetrySettings, keySettings)
}

// A password for deployment would be a second way in. This plan has no FTP.
resource noScm 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-04-01' = {
  parent: app
  name: 'scm'
  properties: {
    allow: false
  }
}

output name string = app.name
output hostName string = app.properties.defaultHostName
