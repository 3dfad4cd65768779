"""`python -m routerdash`: the same as the command `routerdash`."""

import sys

from routerdash.cli import main

sys.argv[0] = "routerdash"  # Django would call the program "python -m django"
main()
