"""Metrics in the database: writer, roll-ups, seeding, retention."""
