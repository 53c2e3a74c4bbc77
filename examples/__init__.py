"""Programs that show the gateway."""
