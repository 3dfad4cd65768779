"""Quality of routing: fleets of simulated batching servers, in virtual time and over HTTP."""
