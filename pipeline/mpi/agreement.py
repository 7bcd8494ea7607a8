"""What all ranks share: what root decided, and one rank's trouble."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import PipelineError
from pipeline.mpi.world import Alone, World


def agreed(world: Alone | World, on_root: Callable[[], bytes]) -> bytes:
    """What `on_root` returns, on every rank; a PipelineError of root's is raised on every rank."""
    if world.rank:
        return _unwrapped(world.broadcast(None))
    try:
        data = b"\0" + on_root()
    except PipelineError as error:
        world.broadcast(_wrapped(error))
        raise
    return _unwrapped(world.broadcast(data))


@contextmanager
def root_first(world: Alone | World) -> Iterator[None]:
    """Inside, root does what it alone does (`if world.rank == 0`); the others wait for it at the end of the block.

    A PipelineError of root's is raised on every rank.
    """
    if world.rank:
        yield
        _unwrapped(world.broadcast(None))
        return
    try:
        yield
    except PipelineError as error:
        world.broadcast(_wrapped(error))
        raise
    world.broadcast(b"\0")


@contextmanager
def trouble_shared(world: Alone | World) -> Iterator[None]:
    """Where any rank meets a PipelineError inside, every rank raises: its own, else that of the lowest rank."""
    trouble: PipelineError | None = None
    try:
        yield
    except PipelineError as error:
        trouble = error
    told = world.gather_living(_wrapped(trouble) if trouble else b"")
    first = world.broadcast(next((message for message in told.values() if message), b"") if world.rank == 0 else None)
    if trouble is not None:
        raise trouble
    if first:
        _unwrapped(first)


def _wrapped(error: PipelineError) -> bytes:
    return bytes([error.exit_code]) + str(error).encode()


def _unwrapped(data: bytes) -> bytes:
    """The bytes behind the leading 0, or the error that was sent in their place."""
    if not data[0]:
        return data[1:]
    told = PipelineError(data[1:].decode())
    told.exit_code = data[0]
    raise told
