"""`make bench`: RouterDash beside nginx, HAProxy and other routers, in one run."""
