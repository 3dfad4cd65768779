"""Torture test: a real RouterDash under load is killed and starved at random; its figures must match a client's tally.

    python -m tests.torture --workers 2 --minutes 5

`traffic` is the client, a separate process that counts the complete responses. `faults` has the faults of RouterDash.
`audit` compares the figures. `run` is the loop over them. `registry/` tortures the registry store alone.
"""
