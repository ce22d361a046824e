using '../main.bicep'
param environmentName = 'snapshot'
param location = 'swedencentral'
