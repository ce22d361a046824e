"""Clock, log, telemetry and memory of this process."""
