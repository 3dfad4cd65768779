"""Torture test of the registry store: real writers and readers are killed at random, and the file is damaged.

    python -m tests.torture registry --seconds 60 --readers 6

Change number v is made from a seed and the state at v - 1. So each process can compute what is true at its version, and
compares every single answer. `history` makes the changes, `processes` has writer and reader, `run` kills and damages,
and `broken` has wrong implementations, each of which must be noticed.
"""
