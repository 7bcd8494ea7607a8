"""How an answer is put into a response: as JSON, or as a problem of RFC 9457."""

from __future__ import annotations

import logging

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from pipeline.server.problems import Problem

log = logging.getLogger(__name__)


def json_response(value: object, status: int = 200, *, location: str = "", disposition: str = "") -> Response:
    """A record as JSON."""
    said = {"Location": location, "Content-Disposition": disposition}
    return Response(msgspec.json.encode(value), status, {name: text for name, text in said.items() if text}, "application/json")


def problem_response(problem: Problem) -> Response:
    """What went wrong, with what cures it."""
    headers = {"Retry-After": "60"} if problem.kind.status == 503 else {}
    if problem.kind.status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    if problem.kind.status in (400, 408, 413, 503):
        headers["Connection"] = "close"  # what is left of the body is not read
    return Response(msgspec.json.encode(problem.body()), problem.kind.status, headers, "application/problem+json")


async def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, Problem):
        raise error
    return problem_response(error)


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "BAD_REQUEST")
    response = problem_response(Problem(code))
    if error.status_code == 405:
        response.headers["Allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """What the address takes, by any of its routes."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in route.methods or ()})


async def _storage(_: Request, error: Exception) -> Response:
    log.error("storage: %s", error.strerror if isinstance(error, OSError) else "")
    return problem_response(Problem("STORAGE_FULL"))


async def _unexpected(_: Request, error: Exception) -> Response:
    log.error("unexpected: %s", type(error).__name__)
    return problem_response(Problem("INTERNAL_ERROR"))


HANDLERS = {Problem: _refused, HTTPException: _http, OSError: _storage, Exception: _unexpected}
"""Who answers what an address raises."""
