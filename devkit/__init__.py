"""What stands in for Azure on one machine: Azurite, an Azure OpenAI emulator and a Functions host; and the demo."""
