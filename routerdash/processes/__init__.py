"""The processes of an installation: supervisor, control, and what they share."""
