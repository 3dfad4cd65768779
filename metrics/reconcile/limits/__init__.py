"""Checks of limits and budgets."""
