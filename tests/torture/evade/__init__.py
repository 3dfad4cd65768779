"""Clients that wish for more than they may have, in 200 forms: hard budgets and forbidden models must hold.

Each form has an API key of its own. The servers read bodies in the ways of real ones, and keep counts of their own.
"""
