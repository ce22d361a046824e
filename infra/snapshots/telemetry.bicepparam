using '../main.bicep'
param environmentName = 'snapshot'
param location = 'swedencentral'
param moreSettings = {
  TELEMETRY: 'otlp'
  OTEL_EXPORTER_OTLP_ENDPOINT: 'https://collector.example:4318'
  TOKEN_LIMITS: 'batch=1000,other=2000'
  SUBMIT_MODE: 'what the template sets itself wins'
}
