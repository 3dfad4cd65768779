"""Prices of models: the price book, its tables, the catalogue that comes with a release, and imports."""
