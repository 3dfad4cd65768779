"""Which code of control the tests run: compiled code in `make test-compiled`, else Python."""

import os
from importlib.machinery import EXTENSION_SUFFIXES

from metrics.counting import fold_sums


def test_only_the_tests_of_compiled_code_run_compiled_code() -> None:
    is_compiled = (fold_sums.__file__ or "").endswith(tuple(EXTENSION_SUFFIXES))
    assert is_compiled == ("TEST_COMPILED_CONTROL" in os.environ)
