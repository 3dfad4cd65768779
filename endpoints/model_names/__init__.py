"""Model names of this installation: aliases, patterns, and steps of targets that requests try in order."""
