"""Prefix affinity: which endpoint is likely to have the beginning of a prompt in its prefix cache.

Servers keep what they computed for recent prompts. A request whose prompt begins like an earlier one is answered sooner
where the earlier one ran. RouterDash notes *marks* of each prompt that it sends: keyed hashes of its beginning at
certain lengths. No text is stored (docs/architecture/affinity.md).
"""
