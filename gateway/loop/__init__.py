"""Work on the event loop: coroutines without Tasks, batched writes, time slices."""
