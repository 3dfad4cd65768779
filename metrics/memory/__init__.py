"""Figures in the memory of the control process, up to date to the last record."""
