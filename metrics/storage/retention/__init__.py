"""Retention: what is deleted from the database by itself, and after how long."""
