"""Scripts that real client libraries run against RouterDash; each prints what it was told, as JSON."""
