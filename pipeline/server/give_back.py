"""Send what was made of a PACS's study back to it: SR and SEG by STOW-RS, tried again where it is down, then reported."""

from __future__ import annotations

import asyncio
import base64
import http.client
import logging
import secrets
import urllib.error
import urllib.request
from urllib.parse import unquote, urlsplit, urlunsplit

from pipeline.server.crew import Board
from pipeline.server.queue import Queue, Row

log = logging.getLogger(__name__)
PAUSES_S = (2.0, 10.0, 60.0, 300.0, 1200.0)
"""Before each further try."""
PATIENCE_S = 60.0
NAMES = ("report.dcm", "lungs.dcm")


async def give_back(queue: Queue, board: Board, url: str, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
    """Send back every answered study that came from a PACS; for ever."""
    while True:
        for row in queue.to_return():
            queue.set_returned(row.id, await _sent(queue, row, url, pauses_s))
            board.changed()
        await board.change(1.0)


async def _sent(queue: Queue, row: Row, url: str, pauses_s: tuple[float, ...]) -> str:
    """What became of it: "sent", "failed", or "nothing" where no object could be made."""
    objects = [path.read_bytes() for path in sorted(queue.out(row).glob("dicom/*/*.dcm")) if path.name in NAMES]
    if not objects:
        return "nothing"
    for pause_s in (*pauses_s, None):
        try:
            await asyncio.to_thread(store, url, objects)
        except (OSError, http.client.HTTPException) as error:
            log.warning("returning a study failed: %s", type(error).__name__)
        else:
            return "sent"
        if pause_s is not None:
            await asyncio.sleep(pause_s)
    log.error("returning a study was given up")
    return "failed"


def store(url: str, objects: list[bytes]) -> None:
    """One STOW-RS request to the studies' address `url`, user and password in it if need be. Raises OSError."""
    mark = secrets.token_hex(16)
    body = b"".join(b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (mark.encode(), data) for data in objects)
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={mark}',
        "Accept": "application/dicom+json",
    }
    parts = urlsplit(url)
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    request = urllib.request.Request(plain, body + f"--{mark}--\r\n".encode(), headers, method="POST")  # noqa: S310  checked
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310  at the start: http or https
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status}")
