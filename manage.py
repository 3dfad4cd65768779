#!/usr/bin/env python3
"""Command line of Django; `manage.py serve` runs RouterDash."""

from routerdash.cli import main

if __name__ == "__main__":
    main()
