"""What several commands share: an archive's options, a table of counts, the notice and the logs' form."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import math
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.mpi import stall
from pipeline.mpi.agreement import root_first
from pipeline.mpi.launch import connect
from pipeline.mpi.launched import is_launched, launched_rank, launched_size, local_rank
from pipeline.mpi.leftovers import remove_left_behind
from pipeline.mpi.watcher import InHand, Post, nobody_watches, watched
from pipeline.mpi.world import Alone, World
from pipeline.run.beforehand import check_request
from pipeline.run.weights import Weights, weights_of

log = logging.getLogger(__name__)
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argument that is a whole number from `low` to `high`."""

    def parsed(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text} is no whole number {_range(low, high)}")
        return value

    return parsed


def number(low: float, high: float) -> Callable[[str], float]:
    """An argument that is a number from `low` to `high`."""

    def parsed(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is no number {_range(low, high)}")
        return value

    return parsed


def _range(low: float, high: float | None) -> str:
    return f"from {low:g} on" if high is None else f"from {low:g} to {high:g}"


def add_archive(parser: argparse.ArgumentParser) -> None:
    """The archive, the run's folder, and how it is worked on."""
    parser.add_argument("archive", type=Path, help="the archive's top folder, or a CSV that lists pictures or volumes")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--ranks", type=whole(1), default=1, help="start this many MPI ranks on this machine")
    parser.add_argument("--config", type=Path, help="TOML; see configs/ (default: the paper's choices, configs/paper.toml)")
    parser.add_argument("--key-file", type=Path, help="pseudonym key (default: $DRENET_KEY_FILE, ~/.config/drenet/)")


def add_weights(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The networks."""
    parser.add_argument(
        "--weights",
        type=weights_of,
        action="append",
        required=required,
        default=None if required else [],
        metavar="[NAME=]PATH",
        help="checkpoint; may repeat. Its columns are named after its task, or NAME" + ("" if required else " (default: none)"),
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Its answer for programs."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output instead of words")


def as_json(value: object) -> str:
    """`value` for programs."""
    import msgspec

    return msgspec.json.encode(value).decode()


def check_before_start(options: argparse.Namespace, weights: Sequence[Weights] = ()) -> None:
    """Refuse a wrong request where no launcher has started this process: before ranks are started, or anything heavy loaded."""
    if launched_size() == 1:
        check_request(options.archive, options.out, weights, options.key_file)


def check_on_root(world: Alone | World, options: argparse.Namespace, weights: Sequence[Weights] = ()) -> None:
    """The same where a launcher has: root looks for all."""
    with root_first(world):
        if world.rank == 0:
            check_request(options.archive, options.out, weights, options.key_file)


def watched_over(options: argparse.Namespace) -> InHand:
    """Go on under a watcher; who calls from Python is not to be forked."""
    if not options.is_program:
        return nobody_watches
    return watched(Post(launched_rank(), launched=is_launched()))


def into_mpi(run: RunConfig) -> Alone | World:
    """This rank's world, on a node cleared of what dead ranks left; from now on its watcher looks for silence."""
    if local_rank() == 0:
        remove_left_behind()
    world = connect(root_computes_up_to=run.root_computes_up_to, join_s=run.join_s)
    stall.begin(run.stall_s, run.abandon_after_s)
    return world


def table(by_status: dict[str, int], by_reason: dict[str, int]) -> str:
    """Studies by status and by reason."""
    lines = [f"{name:<34}{count:>9,}" for name, count in by_status.items()]
    lines += [f"  {name:<32}{count:>9,}" for name, count in by_reason.items()]
    return "\n".join(lines)


def log_to_file(path: Path) -> None:
    """Every rank keeps its own log in the run's folder, one line a study; where it stands too, should its watcher ask.

    Where there is no room, the journal will say so.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        log.warning("no log can be written: %s", error.strerror)
        return
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logging.getLogger().addHandler(handler)
    faulthandler.register(signal.SIGUSR2, file=handler.stream or sys.stderr, all_threads=True)
