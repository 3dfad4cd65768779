"""The style sheets have no unused rules, and respect their cascade layers."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from django.contrib.messages.constants import DEFAULT_TAGS

ROOT = Path(__file__).resolve().parent.parent
CSS = ROOT / "static" / "css"
LAYERS = {CSS / "tokens.css": "tokens", CSS / "base.css": "base"} | {
    file: folder for folder in ("components", "pages") for file in (CSS / folder).glob("*.css")
}


def rules(files: Iterable[Path]) -> str:
    """Return the text of style sheets without their comments."""
    return re.sub(r"/\*.*?\*/", "", "\n".join(file.read_text() for file in files), flags=re.DOTALL)


def styled() -> set[str]:
    """Every class that a selector names, but the chart library's own."""
    css = rules(LAYERS)
    selectors = " ".join(re.findall(r"([^{}]+)\{", css))
    return {name for name in re.findall(r"\.([a-zA-Z][\w-]*)", selectors) if not name.startswith(("u-", "uplot"))}


def used() -> Iterator[str]:
    """Return the words of class attributes, of icons, of classes that scripts set, and of messages."""
    for page in (ROOT / "templates").rglob("*.html"):
        yield from re.findall(r'class="([^"]*)"|css="([^"]*)"|(\{% icon .*?%\})', page.read_text())
    for script in (ROOT / "static" / "js").glob("*.js"):
        yield from (line for line in script.read_text().splitlines() if "class" in line)
    for module in ROOT.glob("metrics/**/templatetags/*.py"):
        yield module.read_text()
    yield from DEFAULT_TAGS.values()


def test_every_class_of_the_stylesheet_is_used() -> None:
    words = {word for text in used() for word in re.findall(r"[\w-]+", str(text))}
    assert sorted(styled() - words) == []


@pytest.mark.parametrize("file", LAYERS, ids=lambda file: file.stem)
def test_every_rule_of_a_file_is_in_the_layer_of_its_folder(file: Path) -> None:
    css = rules([file]).strip()
    assert css.startswith(f"@layer {LAYERS[file]} {{")
    assert "\n}" not in css[:-2]  # the layer ends with the file


def test_every_custom_property_is_defined_and_used() -> None:
    css = rules([*LAYERS, *(CSS / "admin").glob("*.css")])
    used = set(re.findall(r"var\((--[\w-]+)", css))
    scripts = " ".join(script.read_text() for script in (ROOT / "static" / "js").glob("*.js"))
    sprite = (ROOT / "static" / "img" / "icons.svg").read_text()
    assert used - set(re.findall(r"(--[\w-]+):", css)) == set()
    tokens = set(re.findall(r"(--[\w-]+):", rules([CSS / "tokens.css"])))
    assert {token for token in tokens - used if token not in scripts + sprite} == set()


def test_the_admin_repeats_no_value_of_a_token() -> None:
    tokens = rules([CSS / "tokens.css"])
    values = {value for value in re.findall(r": (light-dark\(.+?\));", tokens)}
    admin = rules((CSS / "admin").glob("*.css"))
    assert [value for value in values if value in admin] == []
