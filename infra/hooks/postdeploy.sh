#!/bin/sh
# Sends the inbox's events to the app, once the app has its system key. May be run again.
# azd runs it after each deployment; by hand: azd hooks run postdeploy
set -eu

: "${AZURE_RESOURCE_GROUP:?run this with azd, or set it}"
: "${AZURE_FUNCTION_APP_NAME:?run this with azd, or set it}"
: "${AZURE_STORAGE_ACCOUNT_NAME:?run this with azd, or set it}"
: "${AZURE_EVENT_TOPIC_NAME:?run this with azd, or set it}"
if [ -n "${AZURE_SUBSCRIPTION_ID:-}" ]; then
  az account set --subscription "$AZURE_SUBSCRIPTION_ID"
fi

echo "Waiting for the app's system key"
tries=0
while :; do
  there=$(az functionapp keys list --resource-group "$AZURE_RESOURCE_GROUP" --name "$AZURE_FUNCTION_APP_NAME" \
    --query "contains(keys(systemKeys), 'blobs_extension')" --output tsv 2>/dev/null || true)
  [ "$there" = "true" ] && break
  tries=$((tries + 1))
  if [ "$tries" -ge 60 ]; then
    echo "The app has no system key blobs_extension after 10 minutes: it did not start. Look at its log stream," >&2
    echo "then run: azd hooks run postdeploy" >&2
    exit 1
  fi
  sleep 10
done

az deployment group create --resource-group "$AZURE_RESOURCE_GROUP" --name inbox-events \
  --template-file "$(dirname "$0")/../event-subscription.bicep" --output none \
  --parameters topicName="$AZURE_EVENT_TOPIC_NAME" functionAppName="$AZURE_FUNCTION_APP_NAME" \
  storageName="$AZURE_STORAGE_ACCOUNT_NAME"
echo "What is dropped into the inbox now reaches the app"
