"""The server's OpenAPI document: its schemas are made from the records that are sent, so that they cannot tell otherwise."""

from __future__ import annotations

from typing import Any

import msgspec

from pipeline import __version__
from pipeline.records import NOTICE
from pipeline.server.answer import Answer

JSON = "application/json"
PROBLEM = "application/problem+json"
FILES = (JSON, "text/csv", "image/png", "application/dicom", "application/octet-stream")
BASE64 = "^filename (?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
OFFSET_KIND = "application/offset+octet-stream"
PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "code", "cure"],
    "properties": {name: {"type": "string"} for name in ("type", "title", "detail", "code", "cure")}
    | {"status": {"type": "integer"}},
}


def document(max_bytes: int) -> dict[str, Any]:
    """OpenAPI 3.1, of a server that takes uploads of so many bytes."""
    _, schemas = msgspec.json.schema_components([Answer], ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "drenet serve", "version": __version__, "description": f"One chest CT in, a score out. {NOTICE}"},
        "paths": _paths(max_bytes),
        "components": {
            "schemas": schemas | {"Problem": PROBLEM_SCHEMA, "Accepted": _accepted()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _accepted() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["id", "state", "place"],
        "properties": {"id": {"type": "string"}, "state": {"type": "string"}, "place": {"type": "integer"}},
    }


def _paths(max_bytes: int) -> dict[str, Any]:
    study = {"parameters": [_parameter("id")]}
    return {
        "/v1/studies": {"post": _upload()},
        "/v1/studies/{id}": study
        | {
            "get": _operation("The state of a study, and its numbers", {"200": _body(JSON, "Answer")}, "401", "404"),
            "delete": _operation("Cancel a study, or delete an answered one", {"204": _empty("gone")}, "401", "404"),
        },
        "/v1/studies/{id}/events": study
        | {"get": _operation("Server-sent events, until the answer", {"200": _text("text/event-stream")}, "401", "404")},
        "/v1/studies/{id}/panel": study
        | {"get": _operation("The report's page of the study", {"303": _empty("where the page is")}, "401", "404", "409")},
        "/v1/studies/{id}/files/{name}": {
            "parameters": [_parameter("id"), _parameter("name")],
            "get": _operation("A file of the answer", {"200": _text(*FILES)}, "401", "404", "409"),
        },
        "/v1/uploads": {"post": _begin_upload(max_bytes)},
        "/v1/uploads/{id}": study | {"head": _ask_upload(), "patch": _go_on(max_bytes)},
        "/healthz": {"get": _operation("Whether the server runs", {"200": _text("text/plain")})},
        "/readyz": {"get": _operation("Whether it takes studies", {"200": _text("text/plain")}, "503")},
        "/metrics": {"get": _operation("Prometheus metrics", {"200": _text("text/plain")}, "401")},
        "/openapi.json": {"get": _operation("This document", {"200": _text(JSON)})},
    }


def _upload() -> dict[str, Any]:
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    schema = {"type": "object", "required": ["files"], "properties": {"files": files}}
    refused = ("400", "401", "408", "413", "415", "503", "507")
    accepted = _body(JSON, "Accepted") | {"headers": {"Location": {"schema": {"type": "string"}}}}
    about = "ZIP, TAR, NIfTI, DICOM files, or JPEG or PNG slices of one patient"
    return _operation("Upload a study", {"202": accepted}, *refused) | {
        "requestBody": {"required": True, "description": about, "content": {"multipart/form-data": {"schema": schema}}}
    }


def _begin_upload(max_bytes: int) -> dict[str, Any]:
    created = _empty("where to send it") | {"headers": {"Location": {"schema": {"type": "string"}}}}
    length = {"type": "integer", "minimum": 1, "maximum": max_bytes}
    metadata = {"type": "string", "pattern": BASE64}
    names = [_header("Upload-Length", length), _header("Upload-Metadata", metadata, is_needed=False)]
    operation = _operation("Begin a resumable upload (tus 1.0)", {"201": created}, "400", "401", "412", "413", "503", "507")
    return operation | {"parameters": names}


def _ask_upload() -> dict[str, Any]:
    here = {"Upload-Offset": {"schema": {"type": "integer"}}, "Upload-Length": {"schema": {"type": "integer"}}}
    return _operation("How much of an upload is here", {"200": _empty("bytes here") | {"headers": here}}, "401", "404")


def _go_on(max_bytes: int) -> dict[str, Any]:
    body = {"required": True, "content": {OFFSET_KIND: {"schema": {"type": "string", "format": "binary"}}}}
    refused = ("400", "401", "404", "408", "409", "412", "413", "415")
    about = "Go on with an upload; the study of its id is queued when it is whole"
    return _operation(about, {"204": _empty("bytes here")}, *refused) | {
        "parameters": [_header("Upload-Offset", {"type": "integer", "minimum": 0, "maximum": max_bytes})],
        "requestBody": body,
    }


def _operation(summary: str, responses: dict[str, Any], *refused: str) -> dict[str, Any]:
    problems = {status: _body(PROBLEM, "Problem") for status in (*refused, "403")}
    return {"summary": summary, "responses": responses | problems}


def _body(kind: str, name: str) -> dict[str, Any]:
    return {"description": name, "content": {kind: {"schema": {"$ref": f"#/components/schemas/{name}"}}}}


def _text(*kinds: str) -> dict[str, Any]:
    return {"description": ", ".join(kinds), "content": {kind: {} for kind in kinds}}


def _empty(said: str) -> dict[str, Any]:
    return {"description": said}


def _header(name: str, schema: dict[str, Any], *, is_needed: bool = True) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": is_needed, "schema": schema}


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
