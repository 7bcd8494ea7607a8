"""How far a run is, for Prometheus: a text file that node_exporter's textfile collector reads; no label names anything."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import write_whole
from pipeline.run.progress import Count

log = logging.getLogger(__name__)


class Textfile:
    """Written anew whenever something is told; one that cannot be written is no reason to stop a run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_well = True

    def __call__(self, count: Count) -> None:
        """Write it."""
        try:
            write_whole(self._path, metrics(count, time.time()).encode())
        except PipelineError as error:
            if self._is_well:
                log.warning("%s", error)
            self._is_well = False


def metrics(count: Count, now: float) -> str:
    """The file's text."""
    told = (
        ("drenet_studies", "Studies of the run.", count.n_studies),
        ("drenet_studies_done", "Studies that have their record.", count.n_done),
        ("drenet_studies_failed", "Studies that failed since the run was started last.", count.n_failed),
        ("drenet_studies_per_second", "Studies a second since then.", round(count.rate_per_s, 6)),
        ("drenet_told_timestamp_seconds", "When this was written, Unix time.", round(now, 3)),
    )
    return "".join(f"# HELP {name} {text}\n# TYPE {name} gauge\n{name} {value}\n" for name, text, value in told)
