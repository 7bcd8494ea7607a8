"""Uploads that go on where the line broke: tus 1.0 (https://tus.io/protocols/resumable-upload), core and creation.

One upload is one file, a ZIP of a study most often; when its last byte is on the disk the study of the same id is queued. How
far it came, the file's own length says: neither a broken line nor a killed server loses more than what was on its way.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import shutil
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.server.app import Server
from pipeline.server.openapi import OFFSET_KIND
from pipeline.server.problems import Problem
from pipeline.server.queue import Row
from pipeline.server.upload import create

VERSION = "1.0.0"
SAID = {"Tus-Resumable": VERSION}


class Resumable:
    """The addresses of resumable uploads."""

    def __init__(self, server: Server) -> None:
        self._server, self._queue = server, server.queue
        self._writers: dict[str, object] = {}

    def routes(self) -> list[Route]:
        """Where an upload is begun, asked for and gone on with."""
        upload = "/v1/uploads/{id}"
        return [
            Route("/v1/uploads", self.abilities, methods=["OPTIONS"]),
            Route("/v1/uploads", self.begin, methods=["POST"]),
            Route(upload, self.offset, methods=["HEAD"]),
            Route(upload, self.go_on, methods=["PATCH"]),
        ]

    async def abilities(self, _: Request) -> Response:
        """What of the protocol is spoken."""
        told = {"Tus-Version": VERSION, "Tus-Extension": "creation", "Tus-Max-Size": str(self._server.settings.max_bytes)}
        return Response(status_code=204, headers=SAID | told)

    async def begin(self, request: Request) -> Response:
        """A file of `Upload-Length` bytes is to come; `Location` says where to."""
        _check_version(request)
        n_bytes = _count(request, "Upload-Length")
        name = _file_name(request.headers.get("upload-metadata", ""))
        self._check(n_bytes)
        id_ = self._queue.new_id()
        create(self._folder(id_), name, 1).close()
        try:
            self._queue.begin_upload(id_, n_bytes)
        except Problem:
            shutil.rmtree(self._queue.home(id_), ignore_errors=True)
            raise
        return Response(status_code=201, headers=SAID | {"Location": f"/v1/uploads/{id_}", "Upload-Offset": "0"})

    def _check(self, n_bytes: int) -> None:
        """Raises Problem where so large a file is not taken now."""
        self._server.check_open()
        if not n_bytes:
            raise Problem("EMPTY_UPLOAD")
        if n_bytes > (most := self._server.settings.max_bytes):
            raise Problem("UPLOAD_TOO_LARGE", f"at most {most:,} bytes are taken")
        if n_bytes > shutil.disk_usage(self._server.settings.spool).free:
            raise Problem("STORAGE_FULL")

    async def offset(self, request: Request) -> Response:
        """How much of it is here."""
        row = self._queue.find_upload(request.path_params["id"])
        return Response(headers=SAID | {"Upload-Offset": str(self._n_here(row)), "Upload-Length": str(row.n_bytes)})

    async def go_on(self, request: Request) -> Response:
        """More of the file, from `Upload-Offset` on; what came stays, however the request ends."""
        _check_version(request)
        if request.headers.get("content-type") != OFFSET_KIND:
            raise Problem("UNSUPPORTED_MEDIA_TYPE", f"send {OFFSET_KIND}")
        row = self._queue.find_upload(request.path_params["id"])
        if _count(request, "Upload-Offset") != (here := self._n_here(row)):
            raise Problem("WRONG_OFFSET", f"{here:,} bytes are here")
        if here < row.n_bytes:
            try:
                async with asyncio.timeout(self._server.settings.upload_s):
                    here = await self._written(request, row, here)
            except ClientDisconnect:
                raise Problem("BAD_REQUEST", "the connection broke off") from None
            except TimeoutError:
                raise Problem("UPLOAD_TOO_SLOW") from None
        return Response(status_code=204, headers=SAID | {"Upload-Offset": str(here)})

    async def _written(self, request: Request, row: Row, here: int) -> int:
        """The request's bytes, appended; the study is queued where they were the last. Raises Problem, ClientDisconnect."""
        me = self._writers[row.id] = object()  # who begins later holds the line that lives
        try:
            with self._file(row).open("ab", buffering=0) as file:
                async for chunk in request.stream():
                    if self._writers.get(row.id) is not me:
                        raise Problem("WRONG_OFFSET", "another request goes on with this upload")
                    here += len(chunk)
                    if here > row.n_bytes:
                        raise Problem("UPLOAD_TOO_LARGE", f"{row.n_bytes:,} bytes were announced")
                    file.write(chunk)
                    self._server.metrics.bytes_in += len(chunk)
        finally:
            if self._writers.get(row.id) is me:
                del self._writers[row.id]
        if here == row.n_bytes:
            self._queue.settled(row.id)
            self._server.board.changed()
        return here

    def _n_here(self, row: Row) -> int:
        return self._file(row).stat().st_size if row.state == "receiving" else row.n_bytes

    def _file(self, row: Row) -> Path:
        """Raises Problem where the upload was deleted."""
        for path in self._folder(row.id).rglob("*"):
            if path.is_file():
                return path
        raise Problem("NO_SUCH_STUDY")

    def _folder(self, id_: str) -> Path:
        return self._queue.home(id_) / "upload"


def _check_version(request: Request) -> None:
    if request.headers.get("tus-resumable", VERSION) != VERSION:
        raise Problem("UNKNOWN_VERSION")


def _count(request: Request, header: str) -> int:
    """Raises Problem where the header holds no number."""
    text = request.headers.get(header, "")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Problem("BAD_REQUEST", f"{header} is missing, or no number of bytes")
    return int(text)


def _file_name(metadata: str) -> str:
    """The `filename` of an Upload-Metadata header: pairs of a name and base64, between commas."""
    for pair in metadata.split(","):
        name, _, value = pair.strip().partition(" ")
        if name == "filename":
            try:
                return base64.b64decode(value, validate=True).decode("utf-8", "surrogateescape")
            except binascii.Error:
                raise Problem("BAD_REQUEST", "Upload-Metadata: filename is no base64") from None
    return "file"
