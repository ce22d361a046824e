#!/bin/sh
# Sends the inbox's events to the app, once the app has its system key, and asks its doctor. May be run again.
# azd runs it after each deployment; by hand: azd hooks run postdeploy
set -eu

: "${AZURE_RESOURCE_GROUP:?run this with azd, or set it}"
: "${AZURE_FUNCTION_APP_NAME:?run this with azd, or set it}"
: "${AZURE_FUNCTION_APP_HOST:?run this with azd, or set it}"
: "${AZURE_STORAGE_ACCOUNT_NAME:?run this with azd, or set it}"
: "${AZURE_EVENT_TOPIC_NAME:?run this with azd, or set it}"
if [ -n "${AZURE_SUBSCRIPTION_ID:-}" ]; then
  az account set --subscription "$AZURE_SUBSCRIPTION_ID"
fi

restart() {
  echo "A new app's roles may come later than it does, and it runs nothing after a refusal at its start. Run" >&2
  echo "az functionapp restart --resource-group $AZURE_RESOURCE_GROUP --name $AZURE_FUNCTION_APP_NAME" >&2
  echo "then, two minutes later, azd hooks run postdeploy. Until it has run, the tick finds what is dropped." >&2
}

echo "Waiting for the app's system key"
tries=1
while :; do
  there=$(az functionapp keys list --resource-group "$AZURE_RESOURCE_GROUP" --name "$AZURE_FUNCTION_APP_NAME" \
    --query "contains(keys(systemKeys), 'blobs_extension')" --output tsv 2>/dev/null || true)
  [ "$there" = "true" ] && break
  if [ "$tries" -ge 60 ]; then
    echo "The app has no system key blobs_extension after 10 minutes: it did not start. Its log stream says why." >&2
    restart
    exit 1
  fi
  tries=$((tries + 1))
  sleep 10
done

# Event Grid calls the app's webhook before it takes a subscription, and the app may not have loaded the key yet.
tries=1
until az deployment group create --resource-group "$AZURE_RESOURCE_GROUP" --name inbox-events \
  --template-file "$(dirname "$0")/../event-subscription.bicep" --output none \
  --parameters topicName="$AZURE_EVENT_TOPIC_NAME" functionAppName="$AZURE_FUNCTION_APP_NAME" \
  storageName="$AZURE_STORAGE_ACCOUNT_NAME"; do
  if [ "$tries" -ge 5 ]; then
    echo "The event subscription was not made in 5 tries; what az said stands above." >&2
    restart
    exit 1
  fi
  tries=$((tries + 1))
  echo "The event subscription was not made; try $tries of 5 comes in half a minute"
  sleep 30
done
echo "What is dropped into the inbox now reaches the app"

# The doctor looks at everything that a job needs, as the app itself, and says what is wrong and how to cure it.
address="https://$AZURE_FUNCTION_APP_HOST/api/doctor"
headers=$(mktemp)
trap 'rm -f "$headers"' EXIT
# The key goes through a file, which only its owner reads: no list of processes shows it.
key=$(az functionapp keys list --resource-group "$AZURE_RESOURCE_GROUP" --name "$AZURE_FUNCTION_APP_NAME" \
  --query "functionKeys.default" --output tsv)
printf '{"x-functions-key": "%s"}' "$key" > "$headers"

ask() {
  az rest --skip-authorization-header --headers "@$headers" --method "$1" --url "$address$2" --query "$3" --output tsv
}

echo "Asking the app's doctor, which takes up to two minutes"
tries=1
until id=$(ask post "" id); do
  if [ "$tries" -ge 5 ]; then
    echo "The app took no request for its doctor in 5 tries; what az said stands above." >&2
    restart
    exit 1
  fi
  tries=$((tries + 1))
  sleep 30
done
tries=1
state=$(ask get "/$id" state || true)
while [ "$state" = "running" ] || [ -z "$state" ]; do
  if [ "$tries" -ge 60 ]; then
    echo "The doctor gave no result in 10 minutes: look at the log of the function doctor." >&2
    exit 1
  fi
  tries=$((tries + 1))
  sleep 10
  state=$(ask get "/$id" state || true)
done
ask get "/$id" "checks[?state!='ok'].join(' ', [state, name, saw, cure])"
echo "The doctor's verdict: $state"
if [ "$state" = "wrong" ]; then
  echo "Cure what stands above, then run: azd hooks run postdeploy" >&2
  exit 1
fi
