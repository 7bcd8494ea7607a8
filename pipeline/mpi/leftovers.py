"""What dead ranks left in a node's shared memory: found, and removed where nobody uses it any more.

A segment is a file of /dev/shm. One that belongs to this user, that no process of this node has mapped, and that is not being
made just now, has lost its owner. Where a container shows the node's /dev/shm but not its processes, nobody can tell: nothing
is removed there. submission/leg.sh does the same in shell, for nodes that have no Python outside a container.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108  where MPI and torch share memory
PROC = Path("/proc")
NAMES = ("mpich_shm_*", "vader_segment.*", "sm_segment.*", "ucx_shm_posix_*", "torch_*")
"""MPICH, Open MPI 4 and 5, UCX, torch."""
MAKING_S = 10.0
"""A segment exists for a moment before its maker has mapped it: a younger one is left alone."""
THE_NODES_OWN = {"pid": "pid:[4026531836]", "ipc": "ipc:[4026531839]"}
"""Linux numbers a node's own namespaces so, always."""


def left_behind() -> list[Path]:
    """Segments of this user that nobody uses."""
    candidates = [path for pattern in NAMES for path in SHM.glob(pattern) if _is_ours_and_made(path)]
    if not candidates or not _sees_all_users():
        return []
    used = set(_mapped())
    return [path for path in candidates if str(path) not in used]


def remove_left_behind() -> int:
    """Remove them; how many."""
    removed = 0
    for path in left_behind():
        with contextlib.suppress(OSError):  # another rank of this node was faster
            path.unlink()
            removed += 1
    return removed


def _is_ours_and_made(path: Path) -> bool:
    try:
        seen = path.lstat()
    except OSError:
        return False
    age_s = time.time() - max(seen.st_mtime, seen.st_ctime)
    return stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid() and age_s > MAKING_S


def _sees_all_users() -> bool:
    """Whether every process that may have mapped a segment is to be seen in /proc."""
    try:
        spaces = {name: str((PROC / "self" / "ns" / name).readlink()) for name in THE_NODES_OWN}
    except OSError:
        return False
    return spaces["pid"] == THE_NODES_OWN["pid"] or spaces["ipc"] != THE_NODES_OWN["ipc"]


def _mapped() -> Iterator[str]:
    """Files of /dev/shm that some process has mapped; another user's processes cannot have mapped ours."""
    for maps in PROC.glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            for line in maps.read_text(errors="replace").splitlines():
                name = line.partition(str(SHM) + "/")[2]
                if name:
                    yield f"{SHM}/{name.removesuffix(' (deleted)')}"
