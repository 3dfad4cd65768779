"""Model names: the plan of steps that a name means, the way of a request through them, and its body."""
