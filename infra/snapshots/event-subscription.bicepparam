using '../event-subscription.bicep'
param topicName = 'the-topic'
param functionAppName = 'the-app'
param storageName = 'thestorage'
