"""Model names: what they lead to now, and the comparison of their targets."""
