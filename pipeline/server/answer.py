"""What the server says of a study: its state, then every number in full precision. Nothing of the patient."""

from __future__ import annotations

from typing import Literal

import msgspec

from pipeline.records import NOTICE, Event, StudyResult
from pipeline.run.run_toml import Network

State = Literal["receiving", "queued", "running", "done", "failed", "cancelled"]
FINAL = ("done", "failed", "cancelled")
PAGES = "pages"
"""The folder of the studies' pages."""
SYNTHETIC = "drawings of patients"


class Said(msgspec.Struct, frozen=True):
    """A reason or warning code in plain words."""

    means: str
    cure: str


class File(msgspec.Struct, frozen=True):
    """Something to be fetched: `/v1/studies/{id}/files/{name}`."""

    name: str
    bytes: int


class Outcome(msgspec.Struct, frozen=True):
    """How an accepted upload ended: a result for each of its studies, or the `code` for which there is none."""

    code: str = ""
    cure: str = ""
    networks: list[Network] = []
    results: list[StudyResult] = []
    left_out: list[Event] = []
    files: list[File] = []
    seconds: dict[str, float] = {}


class Answer(msgspec.Struct, frozen=True):
    """The body of `GET /v1/studies/{id}`; times are Unix seconds, `place` is 1 for who is next.

    `panels` are the addresses of the pages that show a study, by its key.
    """

    id: str
    state: State
    stage: str = ""
    place: int = 0
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    expires: float = 0.0
    n_files: int = 0
    n_bytes: int = 0
    code: str = ""
    cure: str = ""
    networks: list[Network] = []
    results: list[StudyResult] = []
    left_out: list[Event] = []
    explained: dict[str, Said] = {}
    files: list[File] = []
    seconds: dict[str, float] = {}
    panels: dict[str, str] = {}
    returned: str = ""
    notice: str = NOTICE


class ProgressEvent(msgspec.Struct, frozen=True):
    """An event of `/v1/studies/{id}/events`."""

    state: State
    stage: str = ""
    place: int = 0
    n_results: int = 0


class WorkerTask(msgspec.Struct, frozen=True):
    """What a worker is asked: the upload's folder, and the new folder of its run."""

    archive: str
    out: str


class Begin(msgspec.Struct, frozen=True):
    """The first line that a worker reads."""

    weights: list[str]
    config: str
    key_file: str


class News(msgspec.Struct, frozen=True):
    """A line that a worker writes."""

    kind: Literal["ready", "refused", "stage", "result", "done"]
    text: str = ""
    result: StudyResult | None = None
    outcome: Outcome | None = None
    networks: list[Network] = []
