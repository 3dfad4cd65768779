"""Torture: RouterDash for real, under load, killed and starved at random, and its figures beside a client's tally.

    python -m tests.torture --workers 2 --minutes 5

`traffic` is the client, a process of its own that keeps count of what it received whole. `faults` are what befalls
RouterDash. `audit` compares. `run` is the loop over them.
"""
