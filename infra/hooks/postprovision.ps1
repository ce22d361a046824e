# Switches on dynamic quota for the new deployment, which Azure recommends for batches. May be run again.
# It is no part of the template: there a refusal would stop the first deployment, and here it stops nothing.
# azd runs it after each provisioning; by hand: azd hooks run postprovision
$ErrorActionPreference = 'Stop'

if (-not $env:AZURE_OPENAI_DEPLOYMENT_NAME) { exit 0 }
foreach ($name in 'AZURE_RESOURCE_GROUP', 'AZURE_OPENAI_ACCOUNT_NAME') {
    if (-not [Environment]::GetEnvironmentVariable($name)) { throw "$name is not set: run this with azd" }
}
if ($env:AZURE_SUBSCRIPTION_ID) {
    az account set --subscription $env:AZURE_SUBSCRIPTION_ID
    if ($LASTEXITCODE -ne 0) { exit 0 }
}

$id = az cognitiveservices account deployment show --resource-group $env:AZURE_RESOURCE_GROUP `
    --name $env:AZURE_OPENAI_ACCOUNT_NAME --deployment-name $env:AZURE_OPENAI_DEPLOYMENT_NAME --query id --output tsv
if ($id) {
    az rest --method patch --url "${id}?api-version=2023-10-01-preview" `
        --body "@$(Join-Path $PSScriptRoot 'dynamic-quota.json')" --output none
}
if ($id -and $LASTEXITCODE -eq 0) {
    Write-Output "Dynamic quota is on for the deployment $env:AZURE_OPENAI_DEPLOYMENT_NAME"
} else {
    Write-Warning 'Dynamic quota is not on: what az said stands above. All works without it, with the deployment''s own quota. To try again: azd hooks run postprovision'
}
exit 0
