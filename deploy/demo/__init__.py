"""Makes the clip that the demo runs on."""
