"""Logs of one JSON object a line on standard error; pseudonyms and counts, never a name, a path or an id."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """A record as one line of JSON; of an exception where it happened, without what it says."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": when, "level": record.levelname, "from": record.name, "said": record.getMessage()}
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line)


def log_json(level: int) -> None:
    """Every logger's records from `level` on go to standard error; libraries that tell values are silent."""
    warnings.simplefilter("ignore")
    for library in ("highdicom", "pynetdicom", "pydicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
