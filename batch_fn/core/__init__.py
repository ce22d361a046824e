"""Jobs, parts, batches, plans and reports. Pure: imports validation only."""
