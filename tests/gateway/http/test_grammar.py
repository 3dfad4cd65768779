import pytest

from gateway.http.grammar import METHODS, Malformed, check_first_line, check_headers, check_line, origin_form


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
def test_unsupported_first_lines(method, target, version):
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
def test_ambiguous_headers(headers):
    with pytest.raises(Malformed):
        check_headers(headers)


@pytest.mark.parametrize(
    "raw", [b"GET /a  HTTP/1.1\r\n", b"GET  /a HTTP/1.1\r\n", b"GET /a HTTP/1.1 \r\n", b"GET\t/a HTTP/1.1\r\n"]
)
def test_a_first_line_has_single_blanks(raw):
    proper = b"\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n"
    end = check_first_line(proper, 0, b"GET", b"/a", "1.1")
    assert end == proper.index(b"\nHost")
    with pytest.raises(Malformed):
        check_first_line(proper + raw, end, b"GET", b"/a", "1.1")


HOST = (b"Host", b"header")


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://a.example/v1/models?x=http://b#".rstrip(b"#"), b"/v1/models?x=http://b", b"a.example"),
        (b"HTTPS://a.example:8443/", b"/", b"a.example:8443"),
        (b"http://[::1]:80", b"/", b"[::1]:80"),
        (b"http://a?b", b"/?b", b"a"),
    ],
)
def test_the_host_of_an_absolute_target_replaces_the_headers(target, path, host):
    assert origin_form(target, [HOST, (b"X", b"y")], "1.1") == (path, [(b"X", b"y"), (b"host", host)])


@pytest.mark.parametrize(
    "target", [b"ftp://a/", b"http:///x", b"http://me@a/", b"http://a/#x", b"*", b"a:80", b"", b"http:/a"]
)
def test_unsupported_absolute_targets(target):
    with pytest.raises(Malformed):
        origin_form(target, [HOST], "1.1")


def test_two_hosts_are_refused_with_an_absolute_target_too():
    with pytest.raises(Malformed):
        origin_form(b"http://a/", [HOST, HOST], "1.1")


def test_an_absolute_target_does_not_replace_a_missing_host_header():
    assert origin_form(b"http://a/", [], "1.1") == (b"/", [])
    assert origin_form(b"http://a/", [], "1.0") == (b"/", [(b"host", b"a")])
