"""Prices of requests: the price book, rates of currencies, and the catalogue that comes with a release."""
