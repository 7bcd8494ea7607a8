"""STOW-RS (DICOM PS3.18, 10.5): a PACS or gateway stores instances by POST; the answer lists each, as DICOM JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.server.app import Server
from pipeline.server.inbox import Inbox, Taken
from pipeline.server.problems import Problem

CANNOT_UNDERSTAND = 0xC000
DICOM = "application/dicom"


@dataclass(slots=True)
class Instances:
    """The instances of one body, each put into the inbox as soon as it is whole."""

    inbox: Inbox
    taken: list[Taken] = field(default_factory=list)
    n_failed: int = 0

    def begin(self, headers: dict[str, str]) -> BinaryIO | None:
        """An instance begins; a part of another type fails."""
        if headers.get("content-type", DICOM).partition(";")[0].strip().lower() != DICOM:
            self.n_failed += 1
            return None
        return self.inbox.new_file().open("xb")

    def end(self, file: BinaryIO) -> None:
        """An instance is whole."""
        taken = self.inbox.take(Path(file.name))
        if taken is None:
            self.n_failed += 1
        else:
            self.taken.append(taken)


class Stow:
    """The DICOMweb door."""

    def __init__(self, server: Server, inbox: Inbox) -> None:
        self._server = server
        self._inbox = inbox

    def routes(self) -> list[Route]:
        """Its address."""
        return [Route("/dicom-web/studies", self.store, methods=["POST"])]

    async def store(self, request: Request) -> Response:
        """Take instances."""
        self._server.check_open()
        sink = Instances(self._inbox)
        await self._server.taken(request, sink)
        if not sink.taken and not sink.n_failed:
            raise Problem("EMPTY_UPLOAD")
        status = 200 if not sink.n_failed else 202 if sink.taken else 409
        ids = sorted({one.id for one in sink.taken})
        links = ", ".join(f'</v1/studies/{id_}>; rel="related"' for id_ in ids)
        headers = {"Link": links} if links else {}
        return Response(msgspec.json.encode(_store_response(sink)), status, headers, "application/dicom+json")


def _store_response(sink: Instances) -> dict[str, Any]:
    taken = [{"00081150": _value("UI", one.sop_class), "00081155": _value("UI", one.sop_uid)} for one in sink.taken]
    failed = [{"00081197": _value("US", CANNOT_UNDERSTAND)}] * sink.n_failed
    parts = {"00081199": taken, "00081198": failed}
    return {tag: {"vr": "SQ", "Value": items} for tag, items in parts.items() if items}


def _value(kind: str, value: str | int) -> dict[str, Any]:
    return {"vr": kind, "Value": [value]}
