# Sends the inbox's events to the app, once the app has its system key, and asks its doctor. May be run again.
# azd runs it after each deployment; by hand: azd hooks run postdeploy
$ErrorActionPreference = 'Stop'

$needed = 'AZURE_RESOURCE_GROUP', 'AZURE_FUNCTION_APP_NAME', 'AZURE_FUNCTION_APP_HOST', 'AZURE_STORAGE_ACCOUNT_NAME', 'AZURE_EVENT_TOPIC_NAME'
foreach ($name in $needed) {
    if (-not [Environment]::GetEnvironmentVariable($name)) { throw "$name is not set: run this with azd" }
}
if ($env:AZURE_SUBSCRIPTION_ID) {
    az account set --subscription $env:AZURE_SUBSCRIPTION_ID
    if ($LASTEXITCODE -ne 0) { throw 'az cannot use that subscription: run az login' }
}

$restart = "A new app's roles may come later than it does, and it runs nothing after a refusal at its start. Run " +
    "az functionapp restart --resource-group $env:AZURE_RESOURCE_GROUP --name $env:AZURE_FUNCTION_APP_NAME " +
    'then, two minutes later, azd hooks run postdeploy. Until it has run, the tick finds what is dropped.'

Write-Output "Waiting for the app's system key"
$tries = 1
while ($true) {
    $there = az functionapp keys list --resource-group $env:AZURE_RESOURCE_GROUP --name $env:AZURE_FUNCTION_APP_NAME `
        --query "contains(keys(systemKeys), 'blobs_extension')" --output tsv 2>$null
    if ($there -eq 'true') { break }
    if ($tries -ge 60) {
        throw "The app has no system key blobs_extension after 10 minutes: it did not start. Its log stream says why. $restart"
    }
    $tries += 1
    Start-Sleep -Seconds 10
}

# Event Grid calls the app's webhook before it takes a subscription, and the app may not have loaded the key yet.
$tries = 1
while ($true) {
    az deployment group create --resource-group $env:AZURE_RESOURCE_GROUP --name inbox-events `
        --template-file (Join-Path $PSScriptRoot '../event-subscription.bicep') --output none `
        --parameters topicName=$env:AZURE_EVENT_TOPIC_NAME functionAppName=$env:AZURE_FUNCTION_APP_NAME `
        storageName=$env:AZURE_STORAGE_ACCOUNT_NAME
    if ($LASTEXITCODE -eq 0) { break }
    if ($tries -ge 5) { throw "The event subscription was not made in 5 tries; what az said stands above. $restart" }
    $tries += 1
    Write-Output "The event subscription was not made; try $tries of 5 comes in half a minute"
    Start-Sleep -Seconds 30
}
Write-Output 'What is dropped into the inbox now reaches the app'

# The doctor looks at everything that a job needs, as the app itself, and says what is wrong and how to cure it.
$address = "https://$env:AZURE_FUNCTION_APP_HOST/api/doctor"
$headers = New-TemporaryFile

function Ask($method, $path, $query) {
    az rest --skip-authorization-header --headers "@$headers" --method $method --url "$address$path" --query $query --output tsv
}

try {
    # The key goes through a file, which only its owner reads: no list of processes shows it.
    $key = az functionapp keys list --resource-group $env:AZURE_RESOURCE_GROUP --name $env:AZURE_FUNCTION_APP_NAME `
        --query 'functionKeys.default' --output tsv
    if ($LASTEXITCODE -ne 0) { throw 'az gives no key of the app: what it said stands above' }
    @{ 'x-functions-key' = "$key" } | ConvertTo-Json | Set-Content -Path $headers

    Write-Output "Asking the app's doctor, which takes up to two minutes"
    $tries = 1
    while ($true) {
        $id = Ask 'post' '' 'id'
        if ($LASTEXITCODE -eq 0) { break }
        if ($tries -ge 5) { throw "The app took no request for its doctor in 5 tries; what az said stands above. $restart" }
        $tries += 1
        Start-Sleep -Seconds 30
    }
    $tries = 1
    $state = Ask 'get' "/$id" 'state'
    while ($state -eq 'running' -or -not $state) {
        if ($tries -ge 60) { throw 'The doctor gave no result in 10 minutes: look at the log of the function doctor.' }
        $tries += 1
        Start-Sleep -Seconds 10
        $state = Ask 'get' "/$id" 'state'
    }
    Ask 'get' "/$id" "checks[?state!='ok'].join(' ', [state, name, saw, cure])"
    Write-Output "The doctor's verdict: $state"
    if ($state -eq 'wrong') { throw 'Cure what stands above, then run: azd hooks run postdeploy' }
} finally {
    Remove-Item $headers
}
