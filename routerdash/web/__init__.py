"""The web application: URLs, middleware, error responses, search."""
