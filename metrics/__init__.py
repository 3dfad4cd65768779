"""Figures: folded from the journals, written to the database, and read in one place."""
