"""The audit as a slice: Django finds its commands, and the core takes nothing else from it."""

from endpoints.slices import Slice

SLICE = Slice()
