"""Writes a CycloneDX list of what RouterDash consists of: `python packaging/sbom.py PYTHON FILE`.

The tools' Python runs it. PYTHON has exactly requirements.txt installed: licences and the graph come from there, the
hashes of what may be downloaded from requirements.txt, and the scripts in static/vendor from their manifest.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENDOR = ROOT / "static" / "vendor"
INSTALLER = {"pip", "setuptools", "wheel"}  # in each virtual environment, and nothing of RouterDash


def main(python: str, target: Path) -> None:
    """Make `target`, and its folder. Raises CalledProcessError."""
    project = ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application"]
    bill = _cyclonedx("environment", *project, python)
    pinned = {
        component["purl"]: component
        for component in _cyclonedx("requirements", str(ROOT / "requirements.txt"))["components"]
    }
    components = [component for component in bill["components"] if component["name"].lower() not in INSTALLER]
    for component in components:
        sources = [ref for ref in pinned[component["purl"]]["externalReferences"] if ref["type"] == "distribution"]
        component["externalReferences"] = [*component.get("externalReferences", []), *sources]
    bill["metadata"]["component"]["version"] = version()
    bill["components"] = sorted(
        [*components, *vendored(), prices()], key=lambda component: str(component["name"]).lower()
    )
    known = {component["bom-ref"] for component in (*bill["components"], bill["metadata"]["component"])}
    bill["dependencies"] = [dependency for dependency in bill["dependencies"] if dependency["ref"] in known]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n")


def _cyclonedx(kind: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "cyclonedx_py", kind, "--output-reproducible", *arguments]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603
    bill: dict[str, Any] = json.loads(made.stdout)
    return bill


def version() -> str:
    """RouterDash's own."""
    text = (ROOT / "routerdash" / "__init__.py").read_text()
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("__version__"))


def vendored() -> list[dict[str, Any]]:
    """The scripts that pages load, each with its files' SHA-256."""
    manifest = json.loads((VENDOR / "manifest.json").read_text())
    return [
        {
            "type": "library",
            "bom-ref": f"vendor-{name}",
            "name": name,
            "version": script["version"],
            "purl": f"pkg:npm/{name}@{script['version']}",
            "licenses": [{"license": {"id": script["licence"]}}],
            "externalReferences": [{"type": "vcs", "url": script["source"]}],
            "components": [
                {
                    "type": "file",
                    "bom-ref": f"file-{file}",
                    "name": file,
                    "hashes": [{"alg": "SHA-256", "content": sha}],
                }
                for file, sha in script["files"].items()
            ],
        }
        for name, script in manifest.items()
    ]


def prices() -> dict[str, Any]:
    """The catalogue of prices, with its files' SHA-256."""
    manifest = json.loads((ROOT / "gateway" / "prices" / "data" / "manifest.json").read_text())
    return {
        "type": "data",
        "bom-ref": "prices",
        "name": manifest["name"],
        "version": manifest["version"],
        "licenses": [{"license": {"id": manifest["licence"]}}],
        "externalReferences": [{"type": "vcs", "url": manifest["source"]}],
        "components": [
            {
                "type": "file",
                "bom-ref": f"price-file-{file}",
                "name": file,
                "hashes": [{"alg": "SHA-256", "content": sha}],
            }
            for file, sha in manifest["files"].items()
        ],
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
