"""Figures of the page of prices, from the API."""

from typing import Any

from tests.expected_figures import Reported, Shown, table


def prices(page: Shown) -> Reported:
    in_effect = page.api("/api/prices/in-effect", **page.query)
    columns = {"Input price": [_amount("input")], "Cached price": [_amount("cached", "input")]}
    unpriced = [] if page.query else in_effect["unpriced"]
    return {
        **table(
            "unpriced",
            unpriced,
            "model",
            {"Requests": ["requests"], "Input tokens": ["input_tokens"], "Output tokens": ["output_tokens"]},
        ),
        **table("prices", in_effect["models"], "model", columns | {"Output price": [_amount("output")]}),
    }


def _amount(*names: str) -> Any:
    """Return a column of the first amount that a price has."""

    def amount(row: Any) -> Any:
        price = row["price"] or {}
        return next((float(price[name]) for name in names if price.get(name) is not None), None)

    return amount
