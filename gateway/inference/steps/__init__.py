"""Model names: the way of a request through the steps of one."""
