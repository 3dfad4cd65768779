"""Prices, and what requests cost: tables, sums, queries, API, pages, laws. gateway.prices evaluates prices."""
