"""Figures: folded from the journals, written to the database, told in one place."""
