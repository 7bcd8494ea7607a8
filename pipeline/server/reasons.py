"""Reason codes in plain words, as the tables of docs/reasons.md have them; the package takes that file along."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from pipeline.records import StudyResult
from pipeline.server.answer import Outcome, Said


def explained(results: Sequence[StudyResult], outcome: Outcome) -> dict[str, Said]:
    """Every code of an answer in plain words."""
    codes = {event.code for event in outcome.left_out}
    for result in results:
        codes |= {result.reason, *result.warnings} - {""}
    known = reasons()
    return {code: known[code] for code in sorted(codes) if code in known}


@cache
def reasons() -> dict[str, Said]:
    """What reason codes mean, and their cures."""
    text = (files("pipeline.server") / "assets" / "reasons.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z_0-9]+) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    return {code: Said(means, cure) for code, means, cure in rows}
