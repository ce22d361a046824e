# Registers the resource provider Microsoft.App, where a private network is asked for: the app's subnet is delegated to it,
# and a template can register none. May be run again.
# azd runs it before each provisioning; by hand: azd hooks run preprovision
$ErrorActionPreference = 'Stop'

if ($env:PRIVATE_NETWORK -ne 'true') { exit 0 }
if ($env:AZURE_SUBSCRIPTION_ID) {
    az account set --subscription $env:AZURE_SUBSCRIPTION_ID
    if ($LASTEXITCODE -ne 0) { throw 'az cannot use that subscription: run az login' }
}

$state = az provider show --namespace Microsoft.App --query registrationState --output tsv
if ($state -eq 'Registered') { exit 0 }
Write-Output 'Registering the resource provider Microsoft.App, which a private network needs; it may take some minutes'
az provider register --namespace Microsoft.App --wait
if ($LASTEXITCODE -ne 0) {
    throw 'Microsoft.App is not registered; what az said stands above. A Contributor or Owner of the subscription runs az provider register --namespace Microsoft.App --wait once. Then run azd up again. Nothing was made.'
}
