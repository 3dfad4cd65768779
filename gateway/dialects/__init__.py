"""The APIs of clients and endpoints: reading and rewriting their JSON, forms and events. No I/O."""
