"""Additions of a slice's tests to tests of all pages.

The tests of the slice `metrics.replay` are in `tests/metrics/replay`; its module `slice` there has `SLICE_TESTS`.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from metrics.reconcile.slices import Check
from routerdash.slices import SLICES

if TYPE_CHECKING:
    from tests.expected_figures import Rule
    from tests.sample_installation import Busy


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceTests:
    pages: "Mapping[str, list[tuple[str, Rule]]]" = field(default_factory=dict)  # queries and rules, by URL name
    examples: "Mapping[str, Callable[[Busy], Iterable[str]]]" = field(default_factory=dict)  # of arguments of paths
    measured: Mapping[str, str] = field(default_factory=dict)  # paths of pages whose queries are counted
    measured_api: Mapping[str, str] = field(default_factory=dict)
    measured_admin: Mapping[str, str] = field(default_factory=dict)
    damages: Mapping[Check, Callable[[], object]] = field(default_factory=dict)  # that checks of `reconcile` must find
    unmeasured: Set[str] = frozenset()  # URL names


def module_of_slice(name: str) -> Any:
    """Return a module of a slice; skip the test if the slice was removed."""
    if not any(name.startswith(f"{one}.") for one in SLICES):
        pytest.skip(f"{name} was removed")
    return import_module(name)


def slice_tests() -> list[SliceTests]:
    modules = [f"tests.{name}.slice" for name in SLICES]
    return [import_module(name).SLICE_TESTS for name in modules if find_spec(name)]
