"""The client's side: HTTP/1.1, connection limits, CORS, the proxy to the control process."""
