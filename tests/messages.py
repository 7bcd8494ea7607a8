"""`mpiexec -n N python tests/messages.py [synchronous]`: messages of every size, crossing one another, in every conversation.

Every rank sends to every other before it takes anything in; then come broadcasts, gathers, and deals of tasks whose messages
are larger than any MPI keeps in buffers of its own. Root says at the end what was exchanged.
"""

import sys
from contextlib import closing
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from synchronous import send_synchronously  # noqa: E402

from pipeline.mpi import messages as mail  # noqa: E402
from pipeline.mpi.launch import connect  # noqa: E402
from pipeline.run.deal import Deal  # noqa: E402

SIZES = (0, 1, 1000, 70_000, 1_000_000, 20_000_000)
TAG = 31


class Large:
    """A source of numbered tasks of `size` bytes, whose reports are as large."""

    def __init__(self, n_tasks, size, n_ranks):
        self.size = size
        self.deal = Deal([(number, 1.0) for number in range(n_tasks)], size=n_ranks)
        self.reported = []

    def give(self, rank):
        return [number.to_bytes(8, "little") + bytes(self.size) for number in self.deal.give(rank)]

    def report(self, rank, report):
        number = int.from_bytes(report[:8], "little")
        self.deal.done(rank, number)
        self.reported.append(number)

    def lost(self, rank, **_):
        self.deal.lost(rank)

    @property
    def finished(self):
        return self.deal.finished


def crossing(world, size):
    """Every rank sends first and takes in afterwards."""
    others = [rank for rank in range(world.size) if rank != world.rank]
    for rank in others:
        world.send(bytes([world.rank]) * size, rank, TAG)
    for rank in others:
        if world.receive(rank, TAG) != bytes([rank]) * size:
            raise SystemExit("another message than was sent")


def dealt(world, n_tasks, size):
    source = Large(n_tasks, size, world.size) if world.rank == 0 else None
    with closing(world.deal(source)) as tasks:
        for task, done in tasks:
            done(task)
    if source and sorted(source.reported) != list(range(n_tasks)):
        raise SystemExit("tasks lost or done twice")


def left(world, size):
    """The last rank leaves early; the others are released, and what it held is open again."""
    source = Large(20_000, size, world.size) if world.rank == 0 else None
    n_begun = 0
    with closing(world.deal(source)) as tasks:
        for task, done in tasks:
            n_begun += 1
            if world.rank == world.size - 1 and n_begun == 2:
                break
            done(task)
    if source and (source.finished or any(source.deal.held_by(rank) for rank in range(1, world.size))):
        raise SystemExit("a rank left and its tasks are not open again")


def main():
    if sys.argv[1:] == ["synchronous"]:
        send_synchronously()
    mail.PIECE = 3_000_000  # so that the largest messages travel in several pieces
    world = connect()
    for size in SIZES:
        crossing(world, size)
        if world.broadcast(b"x" * size if world.rank == 0 else None) != b"x" * size:
            raise SystemExit("broadcast")
        told = world.gather(bytes([world.rank]) * size)
        if world.rank == 0 and told != [bytes([rank]) * size for rank in range(world.size)]:
            raise SystemExit("gather")
        dealt(world, 40 if size < 10_000_000 else 8, size)
    left(world, 2_000)
    left(world, 200_000)
    crossing(world, 3_000_000)  # a whole piece, and then an empty one
    world.flush()
    if world._leaving or world._coming:
        raise SystemExit("messages that nobody has taken in")
    if world.rank == 0:
        print(f"{world.size} ranks exchanged messages of up to {max(SIZES):,} bytes")


if __name__ == "__main__":
    main()
