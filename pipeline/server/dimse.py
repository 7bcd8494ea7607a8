"""A DICOM node: C-ECHO and C-STORE from the AE titles that may call; instances go where STOW-RS puts them.

An instance is on the disk before the sender hears of success. The node's threads hand it to the event loop, which alone keeps
the queue.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import TimeoutError as LateError
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from pipeline.errors import ConfigurationError
from pipeline.server.app import Server
from pipeline.server.inbox import Inbox, Taken
from pipeline.server.problems import Problem
from pipeline.server.settings import Settings

log = logging.getLogger(__name__)
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
SYNTAXES = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{last}" for last in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)),
)
PATIENCE_S = 60.0
TITLE = "DRENET"


class Node:
    """The node, while it listens; `port` is where."""

    def __init__(self, settings: Settings, server: Server, inbox: Inbox) -> None:
        """Raises ConfigurationError where the port cannot be had."""
        self._server = server
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        entity = AE(ae_title=TITLE)
        entity.require_calling_aet = list(settings.callers)
        entity.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), list(SYNTAXES))
        try:
            listening = entity.start_server(
                (settings.host, settings.dimse_port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
            )
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {settings.host} port {settings.dimse_port} ({error.strerror}): name another with --dimse"
            ) from error
        self._listening = listening

    def close(self) -> None:
        """End all associations."""
        self._listening.shutdown()

    def _store(self, event: Any) -> int:
        """One instance, on a thread of its association; the status that the sender gets."""
        path = self._inbox.new_file()
        try:
            path.write_bytes(event.encoded_dataset())
            taken = asyncio.run_coroutine_threadsafe(self._take(path), self._loop).result(PATIENCE_S)
        except (OSError, LateError, Problem) as error:
            log.error("an instance was not taken: %s", type(error).__name__)  # noqa: TRY400  no fault of ours
            path.unlink(missing_ok=True)
            return OUT_OF_RESOURCES
        return SUCCESS if taken else CANNOT_UNDERSTAND

    async def _take(self, path: Any) -> Taken | None:
        self._server.check_open()
        return self._inbox.take(path)
