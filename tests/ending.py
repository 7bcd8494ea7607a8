"""`python tests/ending.py WAY FOLDER [--ranks N]`: `drenet index` whose ranks end in one of many ways once they have joined.

No archive is read and no library loaded: what is tried is how a process, its watcher, its launcher and its front end.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline import errors  # noqa: E402
from pipeline.cli import main, runs  # noqa: E402
from pipeline.mpi import (  # noqa: E402
    front,
    launch,
    stall,
    watcher,
)

WAY = sys.argv[1]
FOLDER = Path(sys.argv[2])
CONFIG = "[run]\njoin_s = 2.0\nstall_s = 1.0\nabandon_after_s = 0.5\n"


def last():
    """Whether this is the last rank."""
    return launch.launched_rank() == launch.launched_size() - 1


def raises(error):
    def way(_world):
        raise error

    return way


def dies_by(number):
    def way(world):
        if last():
            if number != signal.SIGKILL:
                signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        waits(world)

    return way


def exits(code):
    """As a library may, past all of Python."""

    def way(world):
        if last():
            os._exit(code)
        waits(world)

    return way


def loses_its_watcher(world):
    if last():
        os.kill(os.getppid(), signal.SIGKILL)
    waits(world)


def has_a_bug(world):
    if last():
        raise ValueError("a bug")
    waits(world)


def begun():
    """Tell the test that this rank is under way."""
    (FOLDER / f"begun-{launch.launched_rank()}").write_text(str(os.getpid()))


def waits(_world):
    """For a message that never comes, as a rank does."""
    begun()
    while True:
        time.sleep(0.01)


def waits_and_listens(_world):
    """As the run does between two studies."""
    asked = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    begun()
    while not asked:
        stall.moved()
        time.sleep(0.01)
    raise errors.Drained("stopped early as asked; start the same command again to go on")


def stands_in_c(_world):
    """In code that neither lets Python run nor minds a request to stop."""
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    begun()
    while True:
        ctypes.PyDLL(None).sleep(1000)


def never_joins(run):
    if last():
        waits(None)
    return JOINED(run)


def stops_before_it_joins(run):
    """The last rank alone is asked to stop, while the others wait for it in MPI's start."""
    if last():
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGUSR1)
    return JOINED(run)


WAYS = {
    "done": raises(SystemExit(0)),
    "wrong request": raises(errors.ConfigurationError("wrong")),
    "storage": raises(errors.StorageError("full")),
    "drained": raises(errors.Drained("stopped")),
    "device": raises(errors.DeviceError("no such device")),
    "bug": has_a_bug,
    "rank died": raises(errors.RankDied("rank 1 died")),
    "killed": dies_by(signal.SIGKILL),
    "crashed": dies_by(signal.SIGSEGV),
    "hung up": dies_by(signal.SIGHUP),
    "exits with a code of its own": exits(9),
    "killed with its watcher": loses_its_watcher,
    "waits": waits,
    "listens": waits_and_listens,
    "stands in C": stands_in_c,
    "stands in C, and nobody minds": stands_in_c,
}
PATIENT = {  # what would end these ways by itself does not: something else is to
    "stops before it joins": ("join_s = 2.0", "join_s = 600.0"),
    "stands in C, and nobody minds": ("stall_s = 1.0", "stall_s = 600.0"),
}
NOT_JOINED = {"never joins": never_joins, "stops before it joins": stops_before_it_joins}
JOINED = runs.into_mpi


def ends(run):
    """As `into_mpi`, and then the way."""
    return NOT_JOINED[WAY](run) if WAY in NOT_JOINED else WAYS[WAY](JOINED(run))


if __name__ == "__main__":
    runs.into_mpi = ends
    front.PROGRAM = (sys.executable, *sys.argv[:3])
    watcher.LEAVE_S = 0.5
    arguments = sys.argv[3:]
    if launch.launched_size() == 1:  # a rank is told all of it
        config = FOLDER / "c.toml"
        config.write_text(CONFIG.replace(*PATIENT.get(WAY, ("", ""))))
        archive = FOLDER / "archive"
        archive.mkdir(exist_ok=True)
        arguments = ["index", str(archive), "--out", str(FOLDER / "run"), "--config", str(config), *arguments]
    sys.argv[1:] = arguments
    sys.exit(main())
