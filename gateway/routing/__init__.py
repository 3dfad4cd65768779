"""Which endpoint serves a request: routes, ranks, circuit breakers, queue, retry budget."""
