"""Start the server, keep it, let it end: workers first, then the port; on TERM what runs is finished, what waits stays."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from pipeline.errors import ConfigurationError
from pipeline.pseudonym import key_of
from pipeline.server.app import Server
from pipeline.server.crew import Board, Crew
from pipeline.server.give_back import give_back
from pipeline.server.inbox import Inbox
from pipeline.server.metrics import Metrics
from pipeline.server.queue import Queue
from pipeline.server.resumable import Resumable
from pipeline.server.settings import Settings, check
from pipeline.server.stow import Stow

if TYPE_CHECKING:
    from pipeline.server.dimse import Node

log = logging.getLogger(__name__)
PATIENCE_S = 60.0
"""A running study may take so long to end when the server is asked to stop."""
UPLOAD_PATIENCE_S = 20
"""And, before that, an upload on its way."""
CLEAN_EVERY_S = 60.0


def serve(settings: Settings, begun: Callable[[str], None] = lambda _: None) -> None:
    """Serve until TERM or INT; `begun` is told the address. Raises PipelineError."""
    check(settings)
    listening = _listening(settings)
    with listening, Queue(settings.spool, max_queued=settings.max_queued, keep_s=3600 * settings.keep_hours) as queue:
        asyncio.run(_serve(settings, queue, listening, begun))


def _listening(settings: Settings) -> socket.socket:
    """The port, taken. Raises ConfigurationError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    taken = socket.socket(family)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((settings.host, settings.port))
    except OSError as error:
        taken.close()
        raise ConfigurationError(
            f"cannot listen on {settings.host} port {settings.port} ({error.strerror}): name another with --port"
        ) from error
    return taken


class _Uvicorn(uvicorn.Server):
    """Tells the board when it is asked to stop, so that no stream of events keeps it."""

    def __init__(self, config: uvicorn.Config, board: Board) -> None:
        super().__init__(config)
        self._board = board

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal."""
        self._board.draining = True
        self._board.changed()
        super().handle_exit(signal.SIGTERM if sig == signal.SIGINT else sig, frame)


async def _serve(settings: Settings, queue: Queue, listening: socket.socket, begun: Callable[[str], None]) -> None:
    board = Board()
    metrics = Metrics()
    crew = Crew(settings, queue, board, metrics)
    await crew.start()
    server = Server(settings, queue, board, metrics, crew)
    inbox = Inbox(queue, board, key_of(settings.key_file), settings)
    chores = [asyncio.create_task(_clean(queue)), asyncio.create_task(inbox.settle())]
    if settings.return_to:
        chores.append(asyncio.create_task(give_back(queue, board, settings.return_to)))
    app = server.app([*Stow(server, inbox).routes(), *Resumable(server).routes()])
    config = uvicorn.Config(
        app, access_log=False, log_config=None, log_level="warning", server_header=False, lifespan="off",
        timeout_graceful_shutdown=UPLOAD_PATIENCE_S, h11_max_incomplete_event_size=64 << 10,
    )  # fmt: skip
    node = _node(settings, server, inbox)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    listening.listen()
    begun(f"http://{host}:{listening.getsockname()[1]}/")
    try:
        await _Uvicorn(config, board).serve(sockets=[listening])
    finally:
        board.draining = True
        if node is not None:
            node.close()
        for chore in chores:
            chore.cancel()
        with suppress(asyncio.CancelledError):
            await crew.stop(PATIENCE_S)


def _node(settings: Settings, server: Server, inbox: Inbox) -> Node | None:
    """The DICOM node, where one is asked for. Raises ConfigurationError."""
    if not settings.dimse_port:
        return None
    try:
        from pipeline.server.dimse import Node
    except ImportError as error:
        raise ConfigurationError("the DICOM node needs: pip install 'drenet-pipeline[dimse]'") from error
    return Node(settings, server, inbox)


async def _clean(queue: Queue) -> None:
    while True:
        if n_deleted := queue.delete_old():
            log.info("%d studies were kept long enough and are deleted", n_deleted)
        await asyncio.sleep(CLEAN_EVERY_S)
