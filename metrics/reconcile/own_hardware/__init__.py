"""The laws of own hardware."""
