"""Data directories of earlier releases, and the names in them that later releases must keep."""
