import pytest

from gateway.grammar import METHODS, Malformed, check_headers, check_line


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_first_lines(method, version):
    check_line(method, b"/v1/models?a=b&c=[d]~%20", version)


@pytest.mark.parametrize(
    ("method", "target", "version"),
    [
        (b"get", b"/", "1.1"),
        (b"PROPFIND", b"/", "1.1"),
        (b"CONNECT", b"/", "1.1"),
        (b"GET", b"", "1.1"),
        (b"GET", b"*", "1.1"),
        (b"GET", b"http://localhost/", "1.1"),
        (b"GET", b"/#x", "1.1"),
        (b"GET", b"/\xff", "1.1"),
        (b"GET", b"/ ", "1.1"),
        (b"GET", b"/", "0.9"),
        (b"GET", b"/", "2.0"),
    ],
)
def test_first_lines_that_are_not_ours(method, target, version):
    with pytest.raises(Malformed):
        check_line(method, target, version)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"transfer-encoding", b"Chunked"), (b"host", b"a"), (b"content-type", b'b/c; d="\xe4"')],
        [(b"accept", b"a"), (b"accept", b"b"), (b"x", b"a\tb"), (b"y", b"")],
    ],
)
def test_headers(headers):
    check_headers(headers)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [(b"host", b"a"), (b"host", b"a")],
        [(b"content-type", b"a"), (b"content-type", b"b")],
        [(b"x", b"a\0b")],
        [(b"x", b"a\r\n b")],
        [(b"x", b"a\x7fb")],
    ],
)
def test_headers_that_could_be_read_in_two_ways(headers):
    with pytest.raises(Malformed):
        check_headers(headers)
