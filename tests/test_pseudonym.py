"""Pseudonyms say nothing without the key, and are the same for good; a key is made once, for its owner."""

import pytest

from pipeline.errors import ConfigurationError
from pipeline.pseudonym import fingerprint, key_of, pseudonym, read_or_make_key

KEY = bytes(range(32))


def test_a_pseudonym_is_the_same_for_good_and_another_in_every_domain_and_under_every_key():
    assert pseudonym(KEY, "patient", "1.2.3") == "VZBQOYSECGVIFVX42T5REZAIIS"
    assert pseudonym(KEY, "study", "1.2.3") == "DKXG4UHGHAM2IADO7JFCDB7DQJ"
    assert pseudonym(KEY, "series", "1.2.3") == "B7XVW75DQUZCJFVK2C2OH2AICW"
    assert pseudonym(bytes(32), "patient", "1.2.3") != pseudonym(KEY, "patient", "1.2.3")
    assert fingerprint(KEY) == "1c084b8bd0462f61"


def test_an_id_of_bytes_that_cannot_be_decoded_has_a_pseudonym_too():
    assert pseudonym(KEY, "patient", b"\xff".decode("utf-8", "surrogateescape")) == "KJ5BFC2XKCU6MABBN5NZEJQ2EY"


def test_the_users_own_key_is_made_at_first_use_and_announced_with_its_place(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("DRENET_KEY_FILE", str(tmp_path / "own.key"))
    key = key_of(None)
    assert f"made a new pseudonym key at {tmp_path}/own.key" in caplog.text
    caplog.clear()
    assert (key_of(None), read_or_make_key(tmp_path / "own.key"), caplog.text) == (key, key, "")
    with pytest.raises(ConfigurationError, match="drenet key"):
        key_of(tmp_path / "other.key")
