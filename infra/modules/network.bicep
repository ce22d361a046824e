// A private network: the app's calls leave through it, and storage and the new Azure OpenAI account are reached in it.
param name string
param location string
param tags object
param storageId string
@description('The new Azure OpenAI account; empty where an existing one is used, whose network is its owner\'s.')
param openAiId string

var storageEndpoints = [
  'blob'
  'queue'
  'table'
]

resource guard 'Microsoft.Network/networkSecurityGroups@2024-05-01' = {
  name: '${name}-guard'
  location: location
  tags: tags
}

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    addressSpace: {
      addressPrefixes: [
        '10.0.0.0/16'
      ]
    }
    subnets: [
      {
        name: 'app'
        properties: {
          addressPrefix: '10.0.1.0/24'
          networkSecurityGroup: {
            id: guard.id
          }
          delegations: [
            {
              name: 'flex'
              properties: {
                serviceName: 'Microsoft.App/environments'
              }
            }
          ]
        }
      }
      {
        name: 'endpoints'
        properties: {
          addressPrefix: '10.0.2.0/24'
          networkSecurityGroup: {
            id: guard.id
          }
        }
      }
    ]
  }
}

resource storageZones 'Microsoft.Network/privateDnsZones@2020-06-01' = [for each in storageEndpoints: {
  name: 'privatelink.${each}.${environment().suffixes.storage}'
  location: 'global'
  tags: tags
}]

resource storageLinks 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2020-06-01' = [for (each, i) in storageEndpoints: {
  parent: storageZones[i]
  name: name
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: network.id
    }
  }
}]

resource storageEndpoint 'Microsoft.Network/privateEndpoints@2024-05-01' = [for each in storageEndpoints: {
  name: '${name}-${each}'
  location: location
  tags: tags
  properties: {
    subnet: {
      id: '${network.id}/subnets/endpoints'
    }
    privateLinkServiceConnections: [
      {
        name: each
        properties: {
          privateLinkServiceId: storageId
          groupIds: [
            each
          ]
        }
      }
    ]
  }
}]

resource storageNames 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-05-01' = [for (each, i) in storageEndpoints: {
  parent: storageEndpoint[i]
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: each
        properties: {
          privateDnsZoneId: storageZones[i].id
        }
      }
    ]
  }
}]

resource openAiZone 'Microsoft.Network/privateDnsZones@2020-06-01' = if (!empty(openAiId)) {
  name: 'privatelink.openai.azure.com'
  location: 'global'
  tags: tags
}

resource openAiLink 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2020-06-01' = if (!empty(openAiId)) {
  parent: openAiZone
  name: name
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: network.id
    }
  }
}

resource openAiEndpoint 'Microsoft.Network/privateEndpoints@2024-05-01' = if (!empty(openAiId)) {
  name: '${name}-openai'
  location: location
  tags: tags
  properties: {
    subnet: {
      id: '${network.id}/subnets/endpoints'
    }
    privateLinkServiceConnections: [
      {
        name: 'openai'
        properties: {
          privateLinkServiceId: openAiId
          groupIds: [
            'account'
          ]
        }
      }
    ]
  }
}

resource openAiNames 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-05-01' = if (!empty(openAiId)) {
  parent: openAiEndpoint
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: 'openai'
        properties: {
          privateDnsZoneId: openAiZone.id
        }
      }
    ]
  }
}

output appSubnetId string = '${network.id}/subnets/app'
