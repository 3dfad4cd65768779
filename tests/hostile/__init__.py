"""Hostile clients and endpoints against real processes, while a well-behaved client is measured beside them.

`make test` runs a short form of each test, `make hostile` the full form (the fixture `full` distinguishes them).
"""
