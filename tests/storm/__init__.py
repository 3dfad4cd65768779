"""Storm test: many clients of many kinds, while endpoints fail in every way, are drained, edited and deleted.

    python -m tests.storm --minutes 10 --clients 500

Afterwards nothing may be left over: no request in flight, none in the queue, one row for each request, no key
starved, memory flat, and `reconcile` finds nothing.
"""
