"""Independent audit of the figures: compares them by the laws of docs/concepts/counting.md.

It uses SQL and journal bytes only. It does not import the code that computes or reads figures (counting, memory,
storage, queries), so the audit does not repeat mistakes of it. A test checks this. metrics.sql has no such rules.
"""
