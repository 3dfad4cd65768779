"""Learning: parameters of durations and lengths of answers, for adaptive routing, computed from records alone."""
