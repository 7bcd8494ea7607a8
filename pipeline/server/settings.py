"""What a server is told at its start."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import ConfigurationError
from pipeline.pseudonym import OTHERS
from pipeline.run.weights import Weights

LEAST_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """A server's settings; sizes are bytes."""

    weights: tuple[Weights, ...]
    spool: Path
    host: str = "127.0.0.1"
    port: int = 8080
    config: Path | None = None
    key_file: Path | None = None
    token: str = ""
    keep_hours: float = 24.0
    workers: int = 1
    max_bytes: int = 4 << 30
    max_files: int = 20_000
    max_queued: int = 200
    upload_s: float = 3600.0
    study_s: float = 600.0
    settle_s: float = 60.0
    return_to: str = ""
    dimse_port: int = 0
    callers: tuple[str, ...] = ()

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def check(settings: Settings) -> None:
    """Refuse what would leave a server open to strangers. Raises ConfigurationError."""
    if not settings.is_loopback and not settings.token:
        raise ConfigurationError(
            f"{settings.host} can be reached by others: name a secret with --token-file (and put TLS before it), or stay "
            "on 127.0.0.1"
        )
    if settings.return_to and urlsplit(settings.return_to).scheme not in ("http", "https"):
        raise ConfigurationError("--return-to is the http or https address of a DICOMweb server's studies")
    if settings.dimse_port and not settings.is_loopback and not settings.callers:
        raise ConfigurationError("a DICOM node that others can reach needs --caller: the AE titles that may send")


def read_token(path: Path | None) -> str:
    """The secret in a file that only its owner may read; "" where none is named. Raises ConfigurationError."""
    if path is None:
        return ""
    try:
        mode = path.stat().st_mode
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read the token file {path}: it holds one line of ASCII") from error
    if mode & OTHERS:
        raise ConfigurationError(f"others may read the token file {path}: chmod 600 {path}")
    if len(token) < LEAST_TOKEN or not token.isprintable() or " " in token:
        raise ConfigurationError(f"{path} holds no token: one word of {LEAST_TOKEN} or more characters (openssl rand -hex 32)")
    return token
