"""Model names: their state now, the steps that requests use, and the comparison of their targets."""
