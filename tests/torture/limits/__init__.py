"""The torture test of limits: a hundred limited API keys, judged from outside of RouterDash.

Simulated servers count the requests in flight, the client counts responses, and the harness knows which limits were in
effect at any time. `judge` compares them. `broken` has wrong implementations of the rules, which it must notice.
"""
