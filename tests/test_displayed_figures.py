"""Figures are read from pages as users see them."""

import pytest

from tests.displayed_figures import Place, agrees, numbers, parsed, places, value, without

TABLE = """<main id="main"><section aria-labelledby="who"><h2 id="who">Endpoints of today</h2><table>
<thead><tr><th>Name</th><th><a>In flight</a></th></tr></thead>
<tbody><tr><th scope="row"><a>one</a><small>vLLM</small></th><td>3<span class="unit">/ 4</span></td></tr></tbody>
</table><dl><div><dt>Latency</dt><dd>1,204<span>ms</span></dd></div></dl></section><script>7</script></main>"""


def test_a_text_is_found_by_its_heads():
    texts = places(parsed(TABLE))
    assert texts[Place("who", "one", "In flight")] == "3 / 4"
    assert texts[Place("who", "", "Latency")] == "1,204 ms"


def test_a_script_is_not_a_text():
    assert not any("7" in text for text in places(parsed(TABLE)).values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at most 3 in all, 1,234 failed", ["3", "1,234"]),
        ("0–12 ms", ["0", "12 ms"]),
        ("1.84 s 98.5 % 61.8 M", ["1.84 s", "98.5 %", "61.8 M"]),
        ("+1,234 (\N{MINUS SIGN}12.3 %)", ["+1,234", "\N{MINUS SIGN}12.3 %"]),
        ("5 samples", ["5"]),
    ],
)
def test_numbers_are_read_with_their_units(text, expected):
    assert numbers(text) == expected


@pytest.mark.parametrize("text", ["llama3", "v1.2.3"])
def test_an_unreadable_digit_is_an_error(text):
    with pytest.raises(ValueError, match="no number"):
        numbers(text)


def test_texts_that_are_not_figures_are_removed():
    text = "llama3 at 2026-11-26 15:04:05, Nov. 26, 2026, 10 p.m. or 15:04 from 127.0.0.1:8000 and 2001:db8::/64: 5"
    assert numbers(without(text, ["llama3"])) == ["5"]


@pytest.mark.parametrize(
    ("number", "is_"),
    [("340 ms", (340, 1)), ("1.84 s", (1840, 10)), ("2 h", (7.2e6, 3.6e6)), ("61.8 M", (61.8e6, 1e5))],
)
def test_values_of_numbers_with_units(number, is_):
    assert value(number) == pytest.approx(is_)


def test_a_count_agrees_only_with_itself():
    assert [agrees("1,204", [reported]) for reported in (1203, 1204, 1205)] == [False, True, False]


def test_a_rounded_figure_agrees_within_its_precision():
    assert agrees("1.84 s", [1836.2])
    assert not agrees("1.84 s", [1851])


def test_a_changing_figure_is_between_two_reads():
    assert agrees("5 s", [4900, 6100])
