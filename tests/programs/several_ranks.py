"""`several_ranks.py WHAT ROOT_COMPUTES_UP_TO FOLDER ARGUMENTS...`: ranks at work write what they met into FOLDER."""

import sys
from contextlib import closing
from pathlib import Path

from pipeline.errors import PipelineError, StorageError
from pipeline.mpi.agreement import agreed, root_first, trouble_shared
from pipeline.mpi.launch import connect
from pipeline.run.deal import Deal


class Numbers:
    """Root's source of so many numbers."""

    def __init__(self, n, size):
        self.deal = Deal([(i, 1.0) for i in range(n)], size=size)
        self.seen = []

    def give(self, rank):
        return [str(i).encode() for i in self.deal.give(rank)]

    def report(self, rank, report):
        self.deal.done(rank, int(report))
        self.seen.append(int(report))

    def lost(self, rank, *, died=False):  # noqa: ARG002
        self.deal.lost(rank)

    @property
    def finished(self):
        return self.deal.finished


def numbers(n):
    """On root its source."""
    return Numbers(n, world.size) if world.rank == 0 else None


def work(source, stop_after=None):
    """Work until nothing is left, or so many are done."""
    n = 0
    with closing(world.deal(source)) as tasks:
        for task, done in tasks:
            if n == stop_after:
                break
            done(task)
            n += 1


def deal_after_deal():
    for number in range(3):
        source = numbers(500)
        work(source)
        if source:
            (out / str(number)).write_text(str(sorted(source.seen) == list(range(500)) and source.finished))


def one_leaves(leaver):
    source = numbers(100_000)
    work(source, stop_after=5 if world.rank == int(leaver) else None)
    if source:
        held = sum(len(source.deal.held_by(rank)) for rank in range(1, world.size))
        (out / "told").write_text(str((held, len(source.seen) == len(set(source.seen)), source.finished)))
    again = numbers(50)
    work(again)
    if again:
        (out / "again").write_text(str(sorted(again.seen) == list(range(50))))


def one_is_in_trouble():
    try:
        with trouble_shared(world):
            if world.rank == 1:
                raise StorageError("full")
    except PipelineError as error:
        told(f"{error} {error.exit_code}")


def root_decides():
    data = agreed(world, lambda: b"x" * 1_000_000)
    mine = None
    with root_first(world):
        if world.rank == 0:
            mine = "mine"
    told(f"{len(data)} {mine} {refused_by_agreement()} {refused_first()}")


def refused_by_agreement():
    try:
        agreed(world, refuse)
    except PipelineError as error:
        return error


def refused_first():
    try:
        with root_first(world):
            if world.rank == 0:
                refuse()
    except PipelineError as error:
        return error


def refuse():
    raise StorageError("no")


def told(words):
    """What this rank met."""
    (out / f"rank{world.rank}").write_text(words)


KINDS = {one.__name__: one for one in (deal_after_deal, one_leaves, one_is_in_trouble, root_decides)}
world = connect(root_computes_up_to=int(sys.argv[2]))
out = Path(sys.argv[3])
KINDS[sys.argv[1]](*sys.argv[4:])
