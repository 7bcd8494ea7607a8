"""run.toml: what a run was made with; versions, digests, networks, the complete configuration, and nothing that identifies."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pipeline.config import Config
from pipeline.errors import ConfigurationError
from pipeline.files import write_whole
from pipeline.records import Provenance
from pipeline.run.paths import RUN_TOML
from pipeline.run.weights import above_of


class Network(msgspec.Struct, frozen=True, omit_defaults=True):
    """One checkpoint of a run, and the column of the tables that holds its probability."""

    column: str
    sha256: str
    classes: tuple[str, ...]
    positive: str
    task: str = ""
    meaning: str = ""
    threshold: float | None = None

    @property
    def above(self) -> str:
        """The column that says who lies at or above the threshold; there is none where none is stated."""
        return above_of(self.column)


class Described(msgspec.Struct, frozen=True):
    """run.toml: everything that makes a result, and nothing that identifies."""

    code_version: str
    key_fingerprint: str
    configuration_sha256: str
    manifest_sha256: str
    networks: list[Network]
    libraries: dict[str, str]
    config: Config
    identity_rule: int = 1


def write_described(out: Path, described: Described) -> None:
    """Write run.toml of the run at `out`."""
    write_whole(out / RUN_TOML, msgspec.toml.encode(described))


def read_described(out: Path) -> Described:
    """run.toml of the run at `out`. Raises ConfigurationError where there is none."""
    try:
        return msgspec.toml.decode((out / RUN_TOML).read_bytes(), type=Described)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(
            f"{out} is no run's folder, or its indexing is not finished (run.toml is missing or damaged)"
        ) from error


def provenance(described: Described) -> Provenance:
    """What results.h5 says of how it was made."""
    return Provenance(
        code_version=described.code_version,
        configuration_sha256=described.configuration_sha256,
        manifest_sha256=described.manifest_sha256,
        weights_sha256=tuple(network.sha256 for network in described.networks),
        engine=described.config.engine.name,
        precision=described.config.engine.precision,
        key_fingerprint=described.key_fingerprint,
        libraries=described.libraries,
    )
