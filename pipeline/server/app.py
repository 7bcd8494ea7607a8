"""The addresses of the server: the upload, the study, its events, panel and files; health, metrics; the page."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from functools import cache
from importlib.resources import files

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from pipeline.records import NOTICE, StudyResult
from pipeline.server.answer import PAGES, Answer, Outcome, ProgressEvent
from pipeline.server.crew import Board, Crew
from pipeline.server.guard import Guard, policy_of
from pipeline.server.metrics import Metrics
from pipeline.server.openapi import document
from pipeline.server.problems import Problem
from pipeline.server.queue import Queue, Row
from pipeline.server.reasons import explained
from pipeline.server.responses import HANDLERS, json_response
from pipeline.server.settings import Settings
from pipeline.server.upload import Files, UploadLimits, UploadSink, receive

ASSETS = {"page.css": "text/css", "page.js": "text/javascript"}
SILENT_S = 15.0
"""A stream of events says something so often."""


class Server:
    """What all addresses share."""

    def __init__(self, settings: Settings, queue: Queue, board: Board, metrics: Metrics, crew: Crew) -> None:
        self.settings = settings
        self.queue = queue
        self.board = board
        self.metrics = metrics
        self.crew = crew

    def app(self, more: Sequence[Route] = ()) -> ASGIApp:
        """The application; `more` are other doors into the same queue."""
        study = "/v1/studies/{id}"
        routes = [
            *more,
            Route("/", self.page),
            Route("/assets/{name}", self.asset),
            Route("/v1/studies", self.upload, methods=["POST"]),
            Route(study, self.study, methods=["GET"]),
            Route(study, self.delete, methods=["DELETE"]),
            Route(study + "/events", self.events),
            Route(study + "/panel", self.panel),
            Route(study + "/files/{name:path}", self.file),
            Route("/panels/{ticket}/{name:path}", self.panel_file),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.prometheus),
            Route("/openapi.json", self.openapi),
        ]
        return Guard(Starlette(routes=routes, exception_handlers=HANDLERS), self.settings, self.metrics)

    async def upload(self, request: Request) -> Response:
        """Take an upload into the queue."""
        self.check_open()
        id_ = self.queue.new_id()
        sink = Files(self.queue.home(id_) / "upload")
        try:
            n_bytes = await self.taken(request, sink)
            self.queue.add(id_, sink.n_files, n_bytes)
        except BaseException:
            shutil.rmtree(self.queue.home(id_), ignore_errors=True)
            raise
        self.board.changed()
        row = self.queue.find(id_)
        body = {"id": id_, "state": row.state, "place": self.queue.place(row)}
        return json_response(body, 202, location=f"/v1/studies/{id_}")

    def check_open(self) -> None:
        """Raises Problem where no study is taken now."""
        if self.board.draining:
            raise Problem("DRAINING")
        self.queue.check_room()

    async def taken(self, request: Request, sink: UploadSink) -> int:
        """The body of `request`, in `sink`; its bytes. Raises Problem."""
        settings = self.settings
        headers = request.headers
        limits = UploadLimits(settings.max_bytes, settings.max_files, settings.upload_s)
        kind = headers.get("content-type", "")
        declared = headers.get("content-length", "")
        try:
            n_bytes = await receive(request.stream(), kind, declared, sink, limits)
        except ClientDisconnect:
            raise Problem("NOT_MULTIPART", "the connection broke off") from None
        self.metrics.bytes_in += n_bytes
        return n_bytes

    def _row(self, request: Request) -> Row:
        return self.queue.find(request.path_params["id"])

    async def study(self, request: Request) -> Response:
        """The state, and the numbers."""
        return json_response(self.answer(self._row(request)))

    def answer(self, row: Row) -> Answer:
        """What is said of a study."""
        outcome = msgspec.json.decode(row.outcome, type=Outcome)
        now = self.board.now.get(row.id)
        results = outcome.results or (list(now.results) if now else [])
        return Answer(
            id=row.id,
            state=row.state,
            stage=now.stage if now else "",
            place=self.queue.place(row),
            created=row.created,
            started=row.started,
            ended=row.ended,
            expires=row.ended + self.queue.keep_s if row.ended else 0.0,
            n_files=row.n_files,
            n_bytes=row.n_bytes,
            code=outcome.code,
            cure=outcome.cure,
            networks=outcome.networks or self.crew.networks,
            results=results,
            left_out=outcome.left_out,
            explained=explained(results, outcome),
            files=outcome.files,
            seconds=outcome.seconds,
            panels=self.panels(row, results) if row.state == "done" else {},
            returned=row.returned,
        )

    async def delete(self, request: Request) -> Response:
        """Cancel, or forget."""
        row = self._row(request)
        self.crew.cancel(row.id, "cancelled")
        self.queue.cancel(row)
        self.board.changed()
        return Response(status_code=204)

    async def events(self, request: Request) -> Response:
        """News as they come."""
        row = self._row(request)
        return StreamingResponse(self._stream(row.id), media_type="text/event-stream")

    async def _stream(self, id_: str) -> AsyncIterator[str]:
        before = None
        while not self.board.draining:
            try:
                row = self.queue.find(id_)
            except Problem:
                return
            now = self.board.now.get(id_)
            said = ProgressEvent(row.state, now.stage if now else "", self.queue.place(row), len(now.results) if now else 0)
            yield f"event: progress\ndata: {msgspec.json.encode(said).decode()}\n\n" if said != before else ": waiting\n\n"
            if row.is_final:
                return
            before = said
            await self.board.change(SILENT_S)

    async def panel(self, request: Request) -> Response:
        """Where the page of the study is; of several, the first's."""
        row = self._row(request)
        if row.state != "done":
            raise Problem("NOT_ANSWERED" if not row.is_final else "NO_SUCH_FILE")
        return RedirectResponse(next(iter(self.answer(row).panels.values())), 303)

    def panels(self, row: Row, results: Sequence[StudyResult]) -> dict[str, str]:
        """Study key -> the address of its page."""
        return {result.study_key: f"/panels/{row.ticket}/{result.study_key}.html" for result in results}

    async def panel_file(self, request: Request) -> Response:
        """A study's page, which may run the scripts that stand in it, and no other."""
        row = self.queue.by_ticket(request.path_params["ticket"])
        pages = self.queue.out(row) / PAGES
        path = pages / request.path_params["name"]
        if not path.resolve().is_relative_to(pages.resolve()) or not path.is_file():
            raise Problem("NO_SUCH_FILE")
        page = path.read_text(encoding="utf-8")
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy_of(page)})

    async def file(self, request: Request) -> Response:
        """A file of the answer."""
        row = self._row(request)
        name = request.path_params["name"]
        if not row.is_final:
            raise Problem("NOT_ANSWERED")
        if name == "answer.json":
            return json_response(self.answer(row), disposition='attachment; filename="answer.json"')
        if name not in {one.name for one in msgspec.json.decode(row.outcome, type=Outcome).files}:
            raise Problem("NO_SUCH_FILE")
        return FileResponse(self.queue.out(row) / name, filename=name.replace("/", "-"))

    async def page(self, _: Request) -> Response:
        """The page for a browser."""
        text = _read("page.html").replace("{notice}", NOTICE)
        meant = "; ".join(f"{one.column}: {one.meaning}" for one in self.crew.networks if one.meaning)
        return Response(text.replace("{meaning}", meant), media_type="text/html")

    async def asset(self, request: Request) -> Response:
        """The page's own files."""
        name = request.path_params["name"]
        if name not in ASSETS:
            raise Problem("NOT_FOUND")
        return Response(_read(name), media_type=ASSETS[name])

    async def healthz(self, _: Request) -> Response:
        """It runs."""
        return Response("ok\n", media_type="text/plain")

    async def readyz(self, _: Request) -> Response:
        """It takes studies, and somebody screens them."""
        self.check_open()
        if not self.crew.n_ready and not self.queue.counts()["running"]:
            raise Problem("DRAINING", "no worker is ready")
        return Response("ready\n", media_type="text/plain")

    async def prometheus(self, _: Request) -> Response:
        """Metrics."""
        return Response(self.metrics.text(self.queue.counts()), media_type="text/plain; version=0.0.4")

    async def openapi(self, _: Request) -> Response:
        """The document of all this."""
        return json_response(document(self.settings.max_bytes))


@cache
def _read(name: str) -> str:
    return (files("pipeline.server") / "assets" / name).read_text(encoding="utf-8")
