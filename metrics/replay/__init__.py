"""Replay: recorded traffic in virtual time, under another policy or on another fleet, to predict what it would gain."""
