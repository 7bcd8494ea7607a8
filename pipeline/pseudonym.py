"""Keyed pseudonyms: the only names of patients, studies and series that leave a run's `private/` folder.

A pseudonym is base32 of HMAC-SHA256(key, domain, value), cut to 26 characters (130 bits). The key lies in a 0600 file that
root alone creates; only its fingerprint is recorded.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigurationError

KEY_BYTES = 32
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


def read_or_create_key(path: Path) -> bytes:
    """The key at `path`, made at first use. Raises ConfigurationError with the cure where it cannot be had."""
    try:
        if not path.exists():
            _create(path)
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"no usable pseudonym key at {path}: name another with --key-file or DRENET_KEY_FILE (64 hex digits, mode 0600)"
        ) from error
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"{path} is no pseudonym key: expected {2 * KEY_BYTES} hex digits")
    return key


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return  # another run made it in the meantime: use that one
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(KEY_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
