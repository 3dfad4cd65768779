"""Prices of the models of this installation."""
