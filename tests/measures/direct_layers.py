"""A contract of import-linter: packages in an order, of which each imports only later ones, as far as it names them.

The contract `layers` of import-linter also refuses a chain through other modules. Slices may have such chains: one that
imports the database writer, say, which calls a slice by name.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class DirectLayersContract(Contract):
    """Option `layers`: names of packages, the highest first; ` + ` is between packages of one layer."""

    type_name = "direct_layers"

    layers = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        names: Any = self.layers  # import-linter puts the list in the place of the field
        layers = [_modules(graph, of_layer) for of_layer in names]
        refused = [pair for higher, lower in combinations(layers, 2) for pair in _imports(graph, lower, higher)]
        return ContractCheck(kept=not refused, metadata={"refused": sorted(refused)})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for importer, imported in check.metadata["refused"]:
            output.print_error(f"{importer} is not allowed to import {imported}", bold=False)


def _modules(graph: ImportGraph, names: str) -> set[str]:
    """Return the modules of a layer. Raises ValueError for a package that does not exist."""
    packages = names.split(" + ")
    if missing := [name for name in packages if name not in graph.modules]:
        raise ValueError(f"there is no package {missing[0]}")
    return {module for name in packages for module in (name, *graph.find_descendants(name))}


def _imports(graph: ImportGraph, importers: set[str], imported: set[str]) -> Iterator[tuple[str, str]]:
    for module in importers:
        for imported_module in graph.find_modules_directly_imported_by(module) & imported:
            yield module, imported_module
