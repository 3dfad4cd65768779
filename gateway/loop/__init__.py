"""Work on the event loop: time slices, flow control, and a server that uses no CPU time while it is idle."""
