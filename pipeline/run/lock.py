"""Who works on a run's folder, or on one part of it: one job at a time, told by an advisory lock that ends with its process.

The lock's file names the holder. A holder that was killed leaves its name: it is taken over from, unless its job is
still running, which means that the file system does not show one node's locks to another.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path

from pipeline.errors import ConfigurationError
from pipeline.files import storage_error
from pipeline.run.paths import LOCK, PRIVATE, part_homes

log = logging.getLogger(__name__)
BRIEFLY = "to prepare its part"
WAIT_S = 3600.0
"""How long a part waits while another indexes the archive for all."""
NAMELESS_S = 5.0
"""How long a folder may be held by somebody whose name cannot be read: it is written just after the folder is taken."""


class Held:
    """A folder that is held until it is closed."""

    def __init__(self, file: TextIOWrapper) -> None:
        self._file = file

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go, leaving no name."""
        self._file.truncate(0)
        self._file.close()


def hold(out: Path, why: str = "") -> Held:
    """Take the folder for this job; a second job is refused, naming the holder. Raises ConfigurationError."""
    private = out / PRIVATE
    try:
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
        private.chmod(0o700)
        file = (private / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise storage_error(error, out) from error
    try:
        _take(file, out)
    except (OSError, ConfigurationError):
        file.close()
        raise
    try:
        file.truncate(0)
        os.write(file.fileno(), _name(why).encode())
    except OSError as error:
        file.close()
        raise storage_error(error, out) from error
    return Held(file)


def _take(file: TextIOWrapper, out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _refused(out, _read(file)) from error
    except OSError as error:
        raise storage_error(error, out) from error
    before = _read(file)
    if _still_runs(before):
        raise _refused(out, f"{before} (its lock cannot be seen from here: does the file system lock across nodes?)")
    if before:
        log.info("%s was held by %s, which ended without letting go: taken over", out, before)


def _refused(out: Path, holder: str) -> ConfigurationError:
    return ConfigurationError(f"{out} is held by {holder or 'another job'}: wait for it, or choose another --out")


def _read(file: TextIOWrapper) -> str:
    file.seek(0)
    return file.read().strip()


def _name(why: str) -> str:
    job = os.environ.get("SLURM_JOB_ID")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return (
        f"process {os.getpid()} on {platform.node()}{f', job {job}' if job else ''}, since {now}{f', {why}' if why else ''}\n"
    )


def _still_runs(holder: str) -> bool:
    """Whether the job that a forgotten name tells of is running, as far as Slurm says."""
    job = re.search(r"job (\d+)", holder)
    if job is None or job[1] == os.environ.get("SLURM_JOB_ID"):
        return False
    try:
        told = subprocess.run(
            ["squeue", "-h", "-j", job[1], "-o", "%T"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.stdout.strip() == "RUNNING"


@contextmanager
def hold_briefly(out: Path) -> Iterator[None]:
    """Hold the whole run's folder for what the parts have in common, waiting for another part that does the same."""
    begun = time.monotonic()
    while True:
        try:
            held = hold(out, BRIEFLY)
            break
        except ConfigurationError as error:
            if time.monotonic() - begun > (WAIT_S if BRIEFLY in str(error) else NAMELESS_S):
                raise
            time.sleep(0.2)
    with held:
        yield


def holders(run: Path) -> list[str]:
    """Who works at this moment on the run or on parts of it."""
    return [name for path in [*part_homes(run), run] if (name := _holder(path / PRIVATE / LOCK))]


def _holder(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("r", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "another job"
    return ""
