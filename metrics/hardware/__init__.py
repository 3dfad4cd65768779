"""Own hardware: its rates and its costs."""
