"""Measurements of large installations: what a change costs, and whether it is in effect everywhere.

They use RouterDash from outside only: its database, HTTP, signals and /proc.
"""
