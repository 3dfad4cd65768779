import pytest

from gateway.exchange import end_to_end


@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ],
)
def test_headers_of_one_hop_go_no_further(name):
    assert end_to_end([(name, b"x"), (b"accept", b"*/*")]) == [(b"accept", b"*/*")]


def test_connection_names_further_headers_of_one_hop():
    headers = [(b"x-one", b"1"), (b"connection", b"close, X-One"), (b"connection", b"x-two"), (b"x-two", b"2")]
    assert end_to_end([*headers, (b"x-three", b"3")]) == [(b"x-three", b"3")]


def test_everything_else_stays_in_its_order():
    headers = [(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"date", b"now")]
    assert end_to_end(headers) == headers


@pytest.mark.parametrize("name", [b"host", b"cookie", b"content-type", b"authorization"])
def test_connection_cannot_take_away_what_the_other_end_must_see(name):
    assert end_to_end([(b"connection", name), (name, b"x")]) == [(name, b"x")]
