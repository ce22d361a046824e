#!/bin/sh
# Registers the resource provider Microsoft.App, where a private network is asked for: the app's subnet is delegated to it,
# and a template can register none. May be run again.
# azd runs it before each provisioning; by hand: azd hooks run preprovision
set -eu

case "${PRIVATE_NETWORK:-false}" in
  [Tt][Rr][Uu][Ee]) ;;
  *) exit 0 ;;
esac
if [ -n "${AZURE_SUBSCRIPTION_ID:-}" ]; then
  az account set --subscription "$AZURE_SUBSCRIPTION_ID"
fi

state=$(az provider show --namespace Microsoft.App --query registrationState --output tsv || true)
[ "$state" = "Registered" ] && exit 0
echo "Registering the resource provider Microsoft.App, which a private network needs; it may take some minutes"
if ! az provider register --namespace Microsoft.App --wait; then
  echo "Microsoft.App is not registered; what az said stands above. A Contributor or Owner of the subscription runs" >&2
  echo "az provider register --namespace Microsoft.App --wait" >&2
  echo "once. Then run azd up again. Nothing was made." >&2
  exit 1
fi
