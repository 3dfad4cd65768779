"""Counters of limits that hold over all gateway processes of a machine."""
