"""Breaks a rule of limits in the processes of an installation that has this directory in PYTHONPATH."""

import os
import sys

if "BROKEN" in os.environ and ("gateway.main" in sys.orig_argv or "serve" in sys.orig_argv):
    from tests.torture.limits.rules import RULES

    RULES[os.environ["BROKEN"]]()
