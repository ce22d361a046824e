#!/bin/sh
# Switches on dynamic quota for the new deployment, which Azure recommends for batches. May be run again.
# It is no part of the template: there a refusal would stop the first deployment, and here it stops nothing.
# azd runs it after each provisioning; by hand: azd hooks run postprovision
set -eu

[ -n "${AZURE_OPENAI_DEPLOYMENT_NAME:-}" ] || exit 0
: "${AZURE_RESOURCE_GROUP:?run this with azd, or set it}"
: "${AZURE_OPENAI_ACCOUNT_NAME:?run this with azd, or set it}"
if [ -n "${AZURE_SUBSCRIPTION_ID:-}" ]; then
  az account set --subscription "$AZURE_SUBSCRIPTION_ID" || exit 0
fi

id=$(az cognitiveservices account deployment show --resource-group "$AZURE_RESOURCE_GROUP" \
  --name "$AZURE_OPENAI_ACCOUNT_NAME" --deployment-name "$AZURE_OPENAI_DEPLOYMENT_NAME" --query id --output tsv || true)
if [ -n "$id" ] && az rest --method patch --url "$id?api-version=2023-10-01-preview" \
  --body "@$(dirname "$0")/dynamic-quota.json" --output none; then
  echo "Dynamic quota is on for the deployment $AZURE_OPENAI_DEPLOYMENT_NAME"
else
  echo "Dynamic quota is not on: what az said stands above. All works without it, with the deployment's own quota." >&2
  echo "To try again: azd hooks run postprovision" >&2
fi
