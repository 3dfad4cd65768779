"""Paths of Ollama's own API, on both ports, and the API key in them."""

import pytest

from gateway.http.ollama.paths import is_ollama, on_own_port, split_key, without_key

KEY = b"sk_" + b"Key0" * 8


@pytest.mark.parametrize(
    ("target", "on_main_port"),
    [
        (b"/", b"/ollama/"),
        (b"/api/chat", b"/ollama/api/chat"),
        (b"/%b/api/chat" % KEY, b"/ollama/%b/api/chat" % KEY),
        (b"/v1/models", b"/v1/models"),
        (b"/login", b"/ollama/login"),
        (b"*", b"/ollama/"),
    ],
)
def test_the_port_of_its_own_has_no_prefix(target, on_main_port):
    assert on_own_port(target) == on_main_port


@pytest.mark.parametrize(
    ("target", "without", "key"),
    [
        (b"/ollama", b"/ollama/", b""),
        (b"/ollama/", b"/ollama/", b""),
        (b"/ollama/api/chat?x=1", b"/ollama/api/chat?x=1", b""),
        (b"/ollama//api/chat", b"/ollama/api/chat", b""),
        (b"/ollama/v1/models", b"/v1/models", b""),
        (b"/ollama/%b" % KEY, b"/ollama/", KEY),
        (b"/ollama/%b/" % KEY, b"/ollama/", KEY),
        (b"/ollama/%b/api/tags?x=/a" % KEY, b"/ollama/api/tags?x=/a", KEY),
        (b"/ollama/%b//api/tags" % KEY, b"/ollama/api/tags", KEY),
        (b"/ollama/%b/v1/chat/completions" % KEY, b"/v1/chat/completions", KEY),
        (b"/ollama/%b/login" % KEY, b"/ollama/login", KEY),
    ],
)
def test_a_key_in_a_path_is_split_off(target, without, key):
    assert split_key(target) == (without, key)


@pytest.mark.parametrize(
    ("path", "belongs"), [(b"/ollama", True), (b"/ollama/x", True), (b"/ollamas", False), (b"/v1/x", False)]
)
def test_only_its_own_paths_are_ollamas(path, belongs):
    assert is_ollama(path) is belongs


@pytest.mark.parametrize(
    ("referer", "clean"),
    [
        (b"http://router:11434/%b/" % KEY, b"http://router:11434/key/"),
        (b"https://router/ollama/%b/api/tags" % KEY, b"https://router/ollama/key/api/tags"),
        (b"https://router/clients/sk_abc", b"https://router/clients/sk_abc"),
        (b"https://router/requests?q=1", b"https://router/requests?q=1"),
    ],
)
def test_a_referer_has_no_key(referer, clean):
    assert without_key(referer) == clean
