"""What would go wrong with a run, looked for before it is queued or started: one list for `drenet doctor` and `drenet submit`.

Each finding has a name, what was seen, and the cure. Nothing is changed; the files that are tried are removed again. `BLOCKING`
looks find what keeps a job from starting or from finishing a study; the others find what would make it slow.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Config
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.pseudonym import default_key_file
from pipeline.run.beforehand import check_apart, check_archive, check_key, check_weights, standing_folder
from pipeline.run.estimate import START_S, estimate
from pipeline.run.resume import last_records
from pipeline.run.run_toml import read_described
from pipeline.run.weights import Weights, check_names
from pipeline.submission.site import Finding, site_findings


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """What is examined: a run that is about to start. `out` may not exist yet."""

    config: Config
    out: Path | None = None
    weights: tuple[Weights, ...] = ()
    key_file: Path | None = None
    archive: Path | None = None


def refuse_what_cannot_run(planned: PlannedRun, *, on_cluster: bool = True) -> None:
    """Raises ConfigurationError with every finding that keeps a job from starting or from finishing a study."""
    found = [finding for look in BLOCKING for finding in look(planned)]
    if on_cluster:
        found += site_findings(planned.config.cluster)
    if found:
        told = "\n".join(f"{finding.name}: {finding.seen}\n  cure: {finding.cure}" for finding in found)
        raise ConfigurationError(f"nothing was submitted\n{told}")


def wrong_archive(planned: PlannedRun) -> Iterator[Finding]:
    """No archive, or one that the run's folder lies in."""
    if planned.archive is None:
        return
    try:
        check_archive(planned.archive)
        if planned.out is not None:
            check_apart(planned.archive, planned.out)
    except ConfigurationError as error:
        yield Finding("archive", str(error), "name the archive's top folder, and a run's folder that stands beside it")


def wrong_key(planned: PlannedRun) -> Iterator[Finding]:
    """A key that is named and is not there, or that protects nobody."""
    try:
        check_key(planned.key_file)
    except ConfigurationError as error:
        yield Finding("key", str(error), "`drenet key FILE` makes one; keep it for your eyes alone")


def wrong_weights(planned: PlannedRun) -> Iterator[Finding]:
    """Checkpoints that are missing, or not those that the run was begun with."""
    begun = _begun(planned.out)
    try:
        check_names(planned.weights)
    except ConfigurationError as error:
        yield Finding("weights", str(error), "--weights NAME=PATH, each with a name of its own")
    for number, one in enumerate(planned.weights):
        path = one.path
        try:
            check_weights(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except ConfigurationError as error:
            yield Finding("weights", str(error), "name a checkpoint that every node can read")
            continue
        if begun and digest != (begun[number] if number < len(begun) else ""):
            cure = "name the checkpoint that the run was begun with, or choose another --out"
            yield Finding("weights", f"{path} is not what {planned.out} was begun with", cure)


def unwritable(planned: PlannedRun) -> Iterator[Finding]:
    """A run's folder that cannot be written."""
    if planned.out is None:
        return
    folder = standing_folder(planned.out)
    if (error := _tried(lambda: _write(folder))) is not None:
        cure = "choose another --out: on most clusters that is below /scratch or /work, not HOME"
        yield Finding("unwritable", f"{planned.out}: {error.strerror}", cure)


def unlocked(planned: PlannedRun) -> Iterator[Finding]:
    """A file system without locks, or that has gone stale."""
    if planned.out is None:
        return
    folder = standing_folder(planned.out)
    error = _tried(lambda: _lock(folder))
    if error is not None and error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
        cure = "Lustre: mounted with -o flock? NFS: is the lock service up? Stale: log in anew, or another --out"
        yield Finding("no-locks", f"{planned.out}: {error.strerror}", cure)


def no_home(planned: PlannedRun) -> Iterator[Finding]:
    """A key of the user's own that is not there and cannot be made."""
    key = default_key_file()
    if planned.key_file or key.exists():
        return
    folder = standing_folder(key.parent)
    if (error := _tried(lambda: _write(folder))) is not None:
        cure = "make the key on the login node (`drenet key FILE`), and name it with --key-file or $DRENET_KEY_FILE"
        yield Finding("home-read-only", f"{key} is not there and cannot be made: {error.strerror}", cure)


def no_study_ends(planned: PlannedRun) -> Iterator[Finding]:
    """A time limit within which the slowest study so far would not end."""
    cluster = planned.config.cluster
    left_s = 60 * cluster.walltime_min - cluster.drain_s
    slowest_s = _slowest_s(planned.out)
    if START_S + slowest_s > left_s and slowest_s:
        seen = (
            f"the slowest study took {slowest_s:,.0f} s, starting takes about {START_S:.0f} s; walltime_min = "
            f"{cluster.walltime_min} less drain_s = {cluster.drain_s} leaves {left_s:,.0f} s"
        )
        yield Finding("study-too-long", seen, "a longer walltime_min")


def short_drain(planned: PlannedRun) -> Iterator[Finding]:
    """Less time between the word to stop and the end than the slowest study so far took: such a study is begun in vain."""
    drain_s = planned.config.cluster.drain_s
    slowest_s = _slowest_s(planned.out)
    if slowest_s > drain_s:
        seen = f"drain_s = {drain_s}, the slowest study took {slowest_s:,.0f} s: one in hand at the end is done twice"
        yield Finding("drain", seen, f"drain_s = {slowest_s:.0f} or more")


def short_walltime(planned: PlannedRun) -> Iterator[Finding]:
    """A time limit within which the manifest cannot be screened, as far as studies have been timed."""
    if planned.out is None:
        return
    cluster = planned.config.cluster
    try:
        needed = estimate(planned.out, planned.out, cluster, planned.config.run)
    except PipelineError:
        return
    if needed.walltime_s > 60 * cluster.walltime_min * cluster.legs:
        seen = f"{needed.n_open} studies need about {needed.walltime_s / 60:,.0f} min, asked for are {cluster.walltime_min}"
        cure = "a longer walltime_min, more nodes, or legs; a job that is requeued goes on by itself"
        yield Finding("walltime", seen, cure)


BLOCKING: tuple[Callable[[PlannedRun], Iterator[Finding]], ...] = (
    wrong_archive, wrong_key, wrong_weights, unwritable, unlocked, no_home, no_study_ends,
)  # fmt: skip
SLOWING: tuple[Callable[[PlannedRun], Iterator[Finding]], ...] = (short_drain, short_walltime)


def _slowest_s(out: Path | None) -> float:
    """Seconds of the slowest study of the run so far; 0 where none was timed."""
    if out is None or not out.is_dir():
        return 0.0
    return max((record.seconds for record in last_records(out).values()), default=0.0)


def _begun(out: Path | None) -> list[str]:
    try:
        return [network.sha256 for network in read_described(out).networks] if out else []
    except PipelineError:
        return []


def _tried(act: Callable[[], None]) -> OSError | None:
    try:
        act()
    except OSError as error:
        return error
    return None


def _write(folder: Path) -> None:
    path = folder / f".drenet-doctor-{os.getpid()}"
    path.write_bytes(b"x")
    path.unlink()


def _lock(folder: Path) -> None:
    """Take a lock and see that it holds against a second taker."""
    path = folder / f".drenet-doctor-{os.getpid()}.lock"
    try:
        with path.open("w") as first, path.open("w") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            raise OSError(errno.ENOLCK, "a lock does not keep a second taker out")
    finally:
        path.unlink(missing_ok=True)
