using '../main.bicep'
param environmentName = 'snapshot'
param location = 'swedencentral'
param moreSettings = {
  TELEMETRY: 'otlp'
  OTEL_EXPORTER_OTLP_ENDPOINT: 'https://collector.example:4318'
  SUBMIT_MODE: 'what the template sets itself wins'
}
