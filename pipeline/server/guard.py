"""Before every address whose request it is, after it the headers that all answers have; and what a page may run."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.server.metrics import Metrics
from pipeline.server.problems import Problem
from pipeline.server.responses import problem_response
from pipeline.server.settings import Settings

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
"""What needs no token; the page's own files and panels, whose addresses are secrets, besides."""


class Guard:
    """Before every address: whose request it is; after it: the headers that all answers have."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.responses[str(message["status"])] += 1
                there = {name.lower() for name, _ in message["headers"]}
                missing = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in missing if pair[0] not in there)]
            await send(message)

        request = Request(scope)
        try:
            self._check(request)
        except Problem as problem:
            await problem_response(problem)(scope, receive, counted)
            return
        await self._app(scope, receive, counted)

    def _check(self, request: Request) -> None:
        """Raises Problem."""
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Problem("WRONG_ORIGIN")
        if not self._settings.token:
            name = re.sub(r":\d*$", "", host).strip("[]").lower()
            if name not in {"localhost", "127.0.0.1", "::1", self._settings.host}:
                raise Problem("WRONG_HOST")  # a name that another's DNS leads here
            return
        path = request.url.path
        if path in OPEN or path.startswith(("/assets/", "/panels/")):
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode("latin-1"), self._settings.token.encode()):
            raise Problem("TOKEN_MISSING")


def policy_of(page: str) -> str:
    """A Content-Security-Policy that lets the page's own inline scripts and styles pass, by their digests."""
    scripts = " ".join(_digests(page, "script"))
    styles = " ".join(_digests(page, "style"))
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src-elem {styles}; style-src-attr 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )


def _digests(page: str, tag: str) -> list[str]:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in found]
