#!/usr/bin/env python3
"""Django's command line; `manage.py serve` runs RouterDash."""

from routerdash.cli import main

if __name__ == "__main__":
    main()
