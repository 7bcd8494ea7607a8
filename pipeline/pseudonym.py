"""Keyed pseudonyms: the only names of patients, studies and series that leave a run's `private/` folder.

A pseudonym is base32 of HMAC-SHA256(key, domain, value), cut to 26 characters (130 bits). The key lies in a 0600 file that
root alone creates; only its fingerprint is recorded.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigurationError

log = logging.getLogger(__name__)
KEY_BYTES = 32
OTHERS = 0o077
"""Permissions of a file that are not its owner's."""
Domain = Literal["patient", "study", "series"]


def pseudonym(key: bytes, domain: Domain, value: str) -> str:
    """26 characters that say nothing of `value` to who has no `key`."""
    message = domain.encode() + b"\0" + value.encode("utf-8", "surrogateescape")
    digest = hmac.new(key, message, hashlib.sha256).digest()
    return base64.b32encode(digest).decode()[:26]


def fingerprint(key: bytes) -> str:
    """What may be recorded of a key."""
    return hashlib.sha256(b"drenet key fingerprint\0" + key).hexdigest()[:16]


def default_key_file() -> Path:
    """$DRENET_KEY_FILE, else one key an account, so that two runs of one user join on the same keys."""
    named = os.environ.get("DRENET_KEY_FILE")
    return Path(named) if named else Path.home() / ".config" / "drenet" / "pseudonym.key"


def key_of(named: Path | None) -> bytes:
    """The key at `named`, which must be there, or else the user's own, made at first use. Raises ConfigurationError."""
    return read_key(named) if named else read_or_make_key(default_key_file())


def read_or_make_key(path: Path) -> bytes:
    """The key at `path`, made where there is none, which is said. Raises ConfigurationError."""
    if not path.exists():
        make_key(path, may_exist=True)  # another run may make it in the meantime: then that one is used
        log.warning("made a new pseudonym key at %s: keep it, whoever loses it can no longer tell who a row is", path)
    return read_key(path)


def read_key(path: Path) -> bytes:
    """The key at `path`. Raises ConfigurationError with the cure where it cannot be had, or protects nobody."""
    try:
        mode = path.stat().st_mode
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except FileNotFoundError as error:
        raise ConfigurationError(f"no pseudonym key at {path}: name the right one, or make it: drenet key {path}") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"no usable pseudonym key at {path}: name another with --key-file or DRENET_KEY_FILE (64 hex digits, mode 0600)"
        ) from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"{path} is no pseudonym key: expected {2 * KEY_BYTES} hex digits")
    if not any(key):
        raise ConfigurationError(f"{path} holds zeros only, which anybody guesses: make a key with drenet key FILE")
    if mode & OTHERS:
        raise ConfigurationError(f"others may read or change the pseudonym key {path}: chmod 600 {path}")
    return key


def make_key(path: Path, *, may_exist: bool = False) -> None:
    """Make a new key at `path`; one that is there stays. Raises ConfigurationError where it cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create(path)
    except FileExistsError as error:
        if not may_exist:
            raise ConfigurationError(f"{path} is there already: a key is never written over") from error
    except OSError as error:
        raise ConfigurationError(
            f"no pseudonym key can be made at {path} ({error.strerror}): name another with --key-file or DRENET_KEY_FILE"
        ) from error


def _create(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(KEY_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
