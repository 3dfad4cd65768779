"""Learning: samples and their rows, fits of durations and lengths, slow-downs, and how people see and audit them."""
