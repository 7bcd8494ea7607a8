"""The MPI door: rank, size, broadcast, dealing by request and reply, abort; `Alone` where there is no MPI.

Messages are bytes (JSON), never pickles, and waiting is polling with a short sleep, so that ranks waiting on an oversubscribed
machine leave the cores to those that work. Root (rank 0) deals; up to `root_computes_up_to` ranks it works too, and answers
requests between the slices of its own study (`tick`).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from pipeline.errors import ConfigurationError, DeviceError

REQUEST, REPLY = 11, 12
POLL_S = 0.0005


class Source(Protocol):
    """What root deals from: opaque task bytes out, opaque report bytes in."""

    def give(self, rank: int) -> list[bytes]:
        """Tasks for `rank` now."""

    def report(self, rank: int, report: bytes) -> None:
        """`rank` reports one finished task."""

    @property
    def finished(self) -> bool:
        """Nothing left to give and nothing in flight."""


Task = tuple[bytes, Callable[[bytes], None]]


class Alone:
    """A world of one rank: no MPI needed."""

    rank = 0
    size = 1
    root_computes = True

    def broadcast(self, data: bytes | None) -> bytes:
        """Root's bytes, on every rank."""
        if data is None:
            raise ValueError("root broadcasts bytes")
        return data

    def deal(self, source: Source | None, *, pause: Callable[[], bool] = lambda: False) -> Iterator[Task]:
        """Yield (task, done) until the source is finished; call done(report) after each task."""
        if source is None:
            raise ValueError("root deals from a source")
        yield from _own_tasks(source, pause)

    def tick(self) -> None:
        """Nothing to serve."""

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes on root."""
        return [data]

    def abort(self, code: int) -> None:
        """End the process at once."""
        os._exit(code)


class World:
    """The ranks of MPI_COMM_WORLD."""

    def __init__(self, communicator: Any, *, root_computes_up_to: int = 32) -> None:
        self._comm = communicator
        self.rank: int = communicator.Get_rank()
        self.size: int = communicator.Get_size()
        self.root_computes = self.size <= root_computes_up_to
        self._source: Source | None = None
        self._waiting: set[int] = set()
        self._released: set[int] = set()
        self._pause: Callable[[], bool] = lambda: False

    def broadcast(self, data: bytes | None) -> bytes:
        """Root's bytes, on every rank; every rank's digest is compared with root's."""
        import numpy as np

        length = np.array([len(data) if data is not None else 0], dtype=np.int64)
        self._comm.Bcast(length, root=0)
        buffer = bytearray(data) if data is not None else bytearray(int(length[0]))
        step = 1 << 28  # counts beyond 2 GiB overflow in older MPIs
        for start in range(0, len(buffer), step):
            self._comm.Bcast(memoryview(buffer)[start : start + step], root=0)
        self._compare_digests(bytes(buffer))
        return bytes(buffer)

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes on root, in order of rank; an empty list elsewhere."""
        if self.rank:
            self._send(data, 0, REQUEST)
            self._receive(0, REPLY)  # keeps two gathers apart
            return []
        received = {0: data}
        for rank in range(1, self.size):
            received[rank] = self._receive(rank, REQUEST)
            self._send(b"", rank, REPLY)
        return [received[rank] for rank in range(self.size)]

    def deal(self, source: Source | None, *, pause: Callable[[], bool] = lambda: False) -> Iterator[Task]:
        """Yield (task, done) on every rank until root's source is finished; `pause()` true: begin nothing new."""
        if self.rank:
            yield from self._worker_tasks(pause)
            return
        if source is None:
            raise ValueError("root deals from a source")
        self._source, self._pause = source, pause
        self._waiting, self._released = set(), set()
        if self.root_computes:
            yield from self._root_tasks(source, pause)
        while len(self._released) < self.size - 1:
            self._serve(source)
            time.sleep(POLL_S)
        self._source = None

    def tick(self) -> None:
        """Let root answer requests; called between the slices of its own study."""
        if self._source is not None:
            self._serve(self._source)

    def abort(self, code: int) -> None:
        """End every rank at once: one that merely died would leave the others waiting."""
        self._comm.Abort(code)

    def _root_tasks(self, source: Source, pause: Callable[[], bool]) -> Iterator[Task]:
        while not source.finished and not pause():
            self._serve(source)
            tasks = source.give(0)
            for task in tasks:
                yield task, lambda report: source.report(0, report)
                self._serve(source)
            if not tasks:
                time.sleep(POLL_S)

    def _serve(self, source: Source) -> None:
        """Take in every report that has arrived, then answer whoever can be given work or let go."""
        while self._arrived(None, REQUEST):
            rank, message = self._receive_any(REQUEST)
            for report in _unpack(message):
                source.report(rank, report)
            self._waiting.add(rank)
        for rank in sorted(self._waiting):
            tasks = [] if self._pause() else source.give(rank)
            if tasks or source.finished or self._pause():
                self._send(_pack(tasks), rank, REPLY)
                self._waiting.discard(rank)
                if not tasks:
                    self._released.add(rank)

    def _worker_tasks(self, pause: Callable[[], bool]) -> Iterator[Task]:
        """Work through what root sends, asking for more before the last held task is begun."""
        reports: list[bytes] = []
        while True:
            self._send(_pack(reports), 0, REQUEST)
            reports = []
            tasks = _unpack(self._receive(0, REPLY))
            if not tasks:
                return
            for task in tasks:
                if not pause():
                    yield task, reports.append

    def _send(self, data: bytes, rank: int, tag: int) -> None:
        self._comm.Send(data, dest=rank, tag=tag)

    def _arrived(self, rank: int | None, tag: int) -> bool:
        from mpi4py import MPI

        return bool(self._comm.Iprobe(source=MPI.ANY_SOURCE if rank is None else rank, tag=tag))

    def _receive(self, rank: int, tag: int) -> bytes:
        while not self._arrived(rank, tag):
            time.sleep(POLL_S)
        return self._take(rank, tag)[1]

    def _receive_any(self, tag: int) -> tuple[int, bytes]:
        from mpi4py import MPI

        return self._take(MPI.ANY_SOURCE, tag)

    def _take(self, rank: int, tag: int) -> tuple[int, bytes]:
        from mpi4py import MPI

        status = MPI.Status()
        self._comm.Probe(source=rank, tag=tag, status=status)
        buffer = bytearray(status.Get_count(MPI.BYTE))
        self._comm.Recv(buffer, source=status.Get_source(), tag=tag)
        return status.Get_source(), bytes(buffer)

    def _compare_digests(self, data: bytes) -> None:
        mine = hashlib.sha256(data).digest()
        everyone = self.gather(mine)
        wrong = [rank for rank, digest in enumerate(everyone) if digest != mine]
        if wrong:
            raise DeviceError(f"ranks {wrong} received other bytes than root sent: check the interconnect")


def connect(*, root_computes_up_to: int = 32) -> Alone | World:
    """The world this process was started in; stops where N ranks turn out to be N singletons."""
    expected = launched_size()
    if expected <= 1 and "MPI_LOCALNRANKS" not in os.environ:
        return Alone()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ConfigurationError(
            f"started as one of {expected} ranks, but MPI cannot be loaded; "
            "install it with: pip install 'drenet-pipeline[mpi]', or load the site's MPI module and mpi4py"
        ) from error
    size = MPI.COMM_WORLD.Get_size()
    if size != expected:
        raise ConfigurationError(
            f"{expected} ranks were launched but MPI sees {size}: the launcher and the MPI library do not speak the same "
            "PMI. Start with the MPI's own mpiexec, or: srun --mpi=pmi2 (MPICH), srun --mpi=pmix (Open MPI)"
        )
    return World(MPI.COMM_WORLD, root_computes_up_to=root_computes_up_to) if size > 1 else Alone()


def launched_size() -> int:
    """How many ranks the launcher says it started; 1 where there is no launcher."""
    names = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_SIZE", "SLURM_STEP_NUM_TASKS")
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 1)


def _own_tasks(source: Source, pause: Callable[[], bool]) -> Iterator[Task]:
    while not source.finished and not pause():
        for task in source.give(0):
            if not pause():
                yield task, lambda report: source.report(0, report)


def _pack(parts: list[bytes]) -> bytes:
    """Length-prefixed concatenation."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _unpack(data: bytes) -> list[bytes]:
    parts, start = [], 0
    while start < len(data):
        length = int.from_bytes(data[start : start + 8], "little")
        parts.append(data[start + 8 : start + 8 + length])
        start += 8 + length
    return parts
