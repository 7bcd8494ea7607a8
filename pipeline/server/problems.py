"""What the server refuses, each with a code, a status and a cure; RFC 9457's form (application/problem+json)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of refusal."""

    status: int
    title: str
    cure: str


PROBLEMS = {
    "EMPTY_UPLOAD": Kind(400, "The upload holds no file", "send one or more files in the multipart field `files`"),
    "NOT_MULTIPART": Kind(400, "The body is not whole multipart", "send multipart/form-data with a boundary, to its end"),
    "NOT_DICOM": Kind(409, "No part of the body is a DICOM instance", "send parts of type application/dicom"),
    "UNSUPPORTED_MEDIA_TYPE": Kind(415, "The body's type is not read here", "POST multipart; see /openapi.json"),
    "UPLOAD_TOO_LARGE": Kind(413, "The upload is too large", "send one study at a time; --max-mb sets the limit"),
    "TOO_MANY_FILES": Kind(413, "The upload has too many files", "send one study, or a ZIP; --max-files sets the limit"),
    "UPLOAD_TOO_SLOW": Kind(408, "The upload took too long", "send it over a faster line, or raise --upload-s"),
    "WRONG_OFFSET": Kind(409, "The upload goes on elsewhere", "ask by HEAD how many bytes are here, and send from there on"),
    "UNKNOWN_VERSION": Kind(412, "This version of tus is not spoken here", "send Tus-Resumable: 1.0.0"),
    "QUEUE_FULL": Kind(503, "The queue is full", "send it again later, as Retry-After says"),
    "DRAINING": Kind(503, "The server is stopping", "send it again when the server is back"),
    "STORAGE_FULL": Kind(507, "The server's storage cannot take it", "the server's keeper must free space for --spool"),
    "NO_SUCH_STUDY": Kind(404, "There is no such study", "it was deleted, its time is over, or the id is wrong: send it again"),
    "NO_SUCH_FILE": Kind(404, "The study has no such file", "take a name from `files` of the study's answer"),
    "NOT_FOUND": Kind(404, "There is nothing at this address", "see /openapi.json"),
    "METHOD_NOT_ALLOWED": Kind(405, "The address does not take this method", "see /openapi.json"),
    "NOT_ANSWERED": Kind(409, "The study is not answered yet", "ask again when its state is `done`"),
    "TOKEN_MISSING": Kind(401, "A token is needed", "send the header Authorization: Bearer TOKEN"),
    "WRONG_ORIGIN": Kind(403, "The request comes from another site", "open the server's own page, or send no Origin"),
    "WRONG_HOST": Kind(403, "The server does not go by this name", "call it by 127.0.0.1 or localhost"),
    "BAD_REQUEST": Kind(400, "The request makes no sense", "see /openapi.json"),
    "INTERNAL_ERROR": Kind(500, "The server met an error of its own", "tell the server's keeper the time; its log says more"),
}
"""By code."""

FAILURES = {
    "NO_CT": "nothing in it can be screened: send DICOM, NIfTI or pictures of a chest CT; `left_out` says what was found",
    "WORKER_LOST": "the process that screened it died, twice: the study may be what kills it; tell the server's keeper",
    "TIME_LIMIT": "it took longer than the server allows: send one series of the study, or raise --study-s",
    "STORAGE_FULL": "the server's storage is full: its keeper must free space for --spool; then send it again",
    "INTERNAL_ERROR": "the server met an error of its own: its log says more",
}
"""Why an accepted study ends as failed, with the cure."""


class Problem(Exception):  # noqa: N818  it is the body of an answer
    """A refusal, raised where it is seen and answered in one place."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.kind = PROBLEMS[code]

    def body(self) -> dict[str, object]:
        """The problem's JSON."""
        said = {"detail": self.detail} if self.detail else {}
        kind = self.kind
        return {"type": f"urn:drenet:problem:{self.code}", "title": kind.title, "status": kind.status, **said} | {
            "code": self.code,
            "cure": kind.cure,
        }
