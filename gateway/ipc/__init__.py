"""Files and shared memory through which the processes exchange facts."""
