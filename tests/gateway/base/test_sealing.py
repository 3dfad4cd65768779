import pytest

from gateway.base import sealing
from gateway.base.config import ConfigError
from gateway.base.sealing import Sealer, Unsealable
from tests.gateway.samples import KEY, OTHER_KEY


@pytest.mark.parametrize("secret", ["sk-secret", "", "ünïcode", "x" * 10_000])
def test_a_sealed_secret_is_opened(secret):
    sealer = Sealer([KEY])
    token = sealer.seal(secret)
    assert sealer.open(token) == secret
    assert token.isascii()


def test_a_sealed_secret_is_not_readable():
    assert "sk-secret" not in Sealer([KEY]).seal("sk-secret")


def test_keys_can_be_rotated():
    token = Sealer([OTHER_KEY]).seal("secret")
    both = Sealer([KEY, OTHER_KEY])
    assert both.open(token) == "secret"
    assert Sealer([KEY]).open(both.seal("secret")) == "secret"


@pytest.mark.parametrize("token", ["", "plain text", "gAAAAABl", "sk-in-the-clear"])
def test_an_unsealed_text_cannot_be_opened(token):
    with pytest.raises(Unsealable) as caught:
        Sealer([KEY]).open(token)
    assert not token or token not in str(caught.value)


def test_a_secret_sealed_with_another_key_cannot_be_opened():
    with pytest.raises(Unsealable, match="sealed with another encryption key"):
        Sealer([KEY]).open(Sealer([OTHER_KEY]).seal("secret"))


@pytest.mark.parametrize("keys", [["short"], [KEY, "x" * 44], ["é" * 32], [""]])
def test_a_bad_key_is_a_configuration_error_that_does_not_show_it(keys):
    with pytest.raises(ConfigError, match=r"^ROUTERDASH_ENCRYPTION_KEYS must be") as caught:
        Sealer(keys)
    assert KEY not in str(caught.value)


def test_configured_keys_need_no_file(tmp_path):
    sealer = sealing.load([KEY], tmp_path / "key")
    assert sealer.open(Sealer([KEY]).seal("secret")) == "secret"
    assert not (tmp_path / "key").exists()


def test_a_key_file_is_created_once(tmp_path):
    path = tmp_path / "data" / "key"
    token = sealing.load([], path).seal("secret")
    assert sealing.load([], path).open(token) == "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_key_file_may_end_in_a_newline(tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert sealing.load([], tmp_path / "key").open(Sealer([KEY]).seal("secret")) == "secret"


def test_the_creation_of_a_key_is_logged_without_the_key(tmp_path, caplog):
    caplog.set_level("INFO")
    sealing.load([], tmp_path / "key")
    assert "keep a copy" in caplog.text
    assert (tmp_path / "key").read_text() not in caplog.text
