"""Entry point of `python -m routerdash`, which is the same as the command `routerdash`."""

import sys

from routerdash.cli import main

sys.argv[0] = "routerdash"  # Django would call the program "python -m django"
main()
