"""The index of an archive as a step of a run, or by itself; and the lock that both hold."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Config
from pipeline.errors import ConfigurationError
from pipeline.mpi.agreement import root_first
from pipeline.mpi.stop import asked_to_stop
from pipeline.mpi.world import Alone, World
from pipeline.run.beforehand import check_request
from pipeline.run.index import Private, index
from pipeline.run.lock import Held, hold, holders
from pipeline.run.manifest import check_has_ct, read_manifest
from pipeline.run.paths import PRIVATE, part_homes
from pipeline.run.plan import Request


def held(request: Request) -> Held:
    """The lock of this job: of its part, or of the whole run, which no part may then be at work on."""
    own = hold(request.home)
    busy = [] if request.part else [name for home in part_homes(request.out) for name in holders(home)]
    if busy:
        own.close()
        raise ConfigurationError(f"a part of {request.out} is held by {busy[0]}: wait for it, or choose another --out")
    return own


@dataclass(frozen=True, slots=True)
class Indexed:
    """What an index holds."""

    n_files: int
    n_studies: int
    n_ready: int


def index_only(
    world: Alone | World, archive: Path, out: Path, config: Config, key_file: Path | None = None
) -> Indexed | None:  # fmt: skip
    """Index `archive` into the run's folder `out`, to be screened later; what was found, on root."""
    request = Request(archive, (), out, config, key_file)
    with ExitStack() as stack, asked_to_stop() as stop:
        with root_first(world):
            if world.rank == 0:
                check_request(archive, out, key_file=key_file)
                stack.enter_context(held(request))
        index_archive(world, request, config, stop)
        with root_first(world):
            return _indexed(out) if world.rank == 0 else None


def _indexed(out: Path) -> Indexed:
    manifest = read_manifest(out / PRIVATE)
    n_ready = sum(entry.status == "READY" for entry in manifest.entries)
    if not n_ready:
        check_has_ct(out / PRIVATE)
    return Indexed(manifest.heading.n_files, len(manifest.entries), n_ready)


def index_archive(world: Alone | World, request: Request, config: Config, stop: Callable[[], bool]) -> None:
    """Write the manifest of the archive; `stop` is asked between its files. Raises Drained."""
    private: Private | None = None
    with root_first(world):
        if world.rank == 0:
            private = Private(request.out / PRIVATE, request.key())
    index(world, request.archive.absolute(), private, config, stop)
