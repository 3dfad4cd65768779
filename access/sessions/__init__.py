"""Browser sessions in the memory of control and in a file."""
