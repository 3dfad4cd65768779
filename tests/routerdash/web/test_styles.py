"""The joined style sheets, and the headers they are served with."""

import gzip

import pytest
from django.test import Client

from routerdash.web import styles

pytestmark = pytest.mark.django_db  # of middleware; the view needs no database


@pytest.mark.parametrize("name", styles.SHEETS)
def test_a_sheet_has_all_its_files_in_their_order(client: Client, name: str) -> None:
    text = client.get(f"/static/css/{name}.css").content.decode()
    files = [file for pattern in styles.SHEETS[name] for file in sorted(styles.ASSETS.glob(pattern))]
    assert len(files) >= len(styles.SHEETS[name])
    places = [text.index(file.read_text()) for file in files]
    assert places == sorted(places)
    assert text.startswith("@layer vendor, tokens, base, components, pages;")


def test_every_file_is_in_a_sheet() -> None:
    files = {
        file for patterns in styles.SHEETS.values() for pattern in patterns for file in styles.ASSETS.glob(pattern)
    }
    assert set((styles.ASSETS / "css").rglob("*.css")) - files == set()


def test_the_address_changes_with_the_content(client: Client) -> None:
    address = styles.address("routerdash")
    assert address.startswith("/static/css/routerdash.css?v=")
    assert client.get(address)["Cache-Control"] == "max-age=31536000, immutable"
    assert client.get("/static/css/routerdash.css?v=0")["Cache-Control"] == "max-age=3600"
    assert styles.sheet("routerdash").version != styles.sheet("admin").version


def test_a_browser_gets_it_compressed(client: Client) -> None:
    plain = client.get("/static/css/routerdash.css")
    response = client.get("/static/css/routerdash.css", headers={"Accept-Encoding": "gzip, br"})
    assert response["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in response["Vary"]
    assert "Accept-Encoding" in plain["Vary"]
    assert gzip.decompress(response.content) == plain.content
    assert len(response.content) < len(plain.content) / 4
    assert response["Content-Type"] == "text/css; charset=utf-8"


def test_an_unknown_sheet_is_not_found(client: Client) -> None:
    assert client.get("/static/css/nothing.css").status_code == 404
