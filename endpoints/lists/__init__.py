"""Lists of the JSON API and of pages, in parts."""
