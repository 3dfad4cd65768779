"""Pages of figures: rendered completely by the server, and updated by events. Each module has its own URLS."""
