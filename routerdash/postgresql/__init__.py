"""Django's database backend for PostgreSQL, with connections that are used again."""
