"""Inference servers: what is known of them, how they fare, and the snapshot that gateways route by."""
