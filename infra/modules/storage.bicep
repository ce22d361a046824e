// The one storage account: what users drop and fetch, the app's state, the host's own things and the app's package.
param name string
param location string
param tags object
@description('True: only the private endpoints, and trusted Azure services, reach the account.')
param isPrivate bool
@description('An Azure OpenAI account that reads and writes blobs itself (SUBMIT_MODE=blob); empty for none.')
param readerResourceId string
param archiveDays int
param workDays int
param softDeleteDays int

var names = loadJsonContent('../names.json')
var ownContainers = [
  names.deploymentContainer
  names.deadLetterContainer
]
var queues = union(names.poisonQueues, [
  names.queues.DROP_QUEUE
  names.queues.SUBMIT_QUEUE
  names.queues.COLLECT_QUEUE
  names.queues.COMPLETED_QUEUE
  names.queues.DOCTOR_QUEUE
])

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  // checkov:skip=CKV_AZURE_35: without a private network, drops come over the internet, with Entra ID only
  // checkov:skip=CKV_AZURE_206: what is here is worked off or can be dropped again; copies elsewhere would double the price
  // checkov:skip=CKV_AZURE_59: the same; public access to blobs is off, see allowBlobPublicAccess
  name: name
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    accessTier: 'Hot'
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false // every caller is somebody, and there is no key to leak
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: 'Enabled'
    networkAcls: {
      defaultAction: isPrivate ? 'Deny' : 'Allow'
      bypass: 'AzureServices' // Event Grid's dead letters
      resourceAccessRules: empty(readerResourceId) ? [] : [
        {
          tenantId: tenant().tenantId
          resourceId: readerResourceId
        }
      ]
    }
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: account
  name: 'default'
  properties: {
    deleteRetentionPolicy: {
      enabled: true
      days: softDeleteDays
    }
    containerDeleteRetentionPolicy: {
      enabled: true
      days: softDeleteDays
    }
  }
}

resource appContainers 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = [for each in items(names.containers): {
  parent: blobs
  name: each.value
  properties: {
    publicAccess: 'None'
  }
}]

resource otherContainers 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = [for each in ownContainers: {
  parent: blobs
  name: each
  properties: {
    publicAccess: 'None'
  }
}]

resource queueService 'Microsoft.Storage/storageAccounts/queueServices@2023-05-01' = {
  parent: account
  name: 'default'
}

// A trigger makes no queue, it waits for one; poison queues have triggers too.
resource appQueues 'Microsoft.Storage/storageAccounts/queueServices/queues@2023-05-01' = [for each in queues: {
  parent: queueService
  name: each
}]

resource tableService 'Microsoft.Storage/storageAccounts/tableServices@2023-05-01' = {
  parent: account
  name: 'default'
}

resource appTables 'Microsoft.Storage/storageAccounts/tableServices/tables@2023-05-01' = [for each in items(names.tables): {
  parent: tableService
  name: each.value
}]

resource lifecycle 'Microsoft.Storage/storageAccounts/managementPolicies@2023-05-01' = {
  parent: account
  name: 'default'
  dependsOn: [
    blobs
  ]
  properties: {
    policy: {
      rules: [
        {
          name: 'archive'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: [
                'blockBlob'
              ]
              prefixMatch: [
                '${names.containers.ARCHIVE_CONTAINER}/'
              ]
            }
            actions: {
              baseBlob: {
                tierToCool: {
                  daysAfterModificationGreaterThan: 30
                }
                delete: {
                  daysAfterModificationGreaterThan: archiveDays
                }
              }
            }
          }
        }
        {
          // The app deletes its own when a job is done; this is for what a lost job would leave behind.
          name: 'work'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: [
                'blockBlob'
              ]
              prefixMatch: [
                '${names.containers.WORK_CONTAINER}/'
                '${names.deadLetterContainer}/'
              ]
            }
            actions: {
              baseBlob: {
                delete: {
                  daysAfterModificationGreaterThan: workDays
                }
              }
            }
          }
        }
      ]
    }
  }
}

output name string = account.name
output id string = account.id
output blobEndpoint string = account.properties.primaryEndpoints.blob
output queueEndpoint string = account.properties.primaryEndpoints.queue
output tableEndpoint string = account.properties.primaryEndpoints.table
