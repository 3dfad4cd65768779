"""The pages of figures: rendered whole by the server, kept up to date by events. Each module has its own URLS."""
