"""How the series of one study was chosen, from a run's manifest: every candidate's marks, and why each other one lost.

Series bear their pseudonyms; what is said of them is what the tables say too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pipeline.archive import SeriesRank, why_lost
from pipeline.errors import ConfigurationError
from pipeline.records import Series, Study
from pipeline.run.manifest import Manifest, read_manifest
from pipeline.run.paths import PRIVATE

MARKS = {
    "preferred": "preferred", "original": "original", "extent": "extent_cm", "thickness": "thickness", "kernel": "kernel",
    "regular": "regular", "plain": "no_contrast", "n_slices": "slices",
}  # fmt: skip
"""Marks in the order in which they decide, more is better; their headings."""


def explain(run: Path, name: str) -> list[str]:
    """The lines that say it of the study called `name`, its UID or study_key. Raises ConfigurationError without one."""
    study = _study(read_manifest(run / PRIVATE), name)
    lines = [f"study {study.study_key}: {study.status} {study.reason}".rstrip(), *_doubts(study)]
    if any(series.kind == "image" for series in study.candidates):
        return [*lines, "exported pictures are one series: there is nothing to choose"]
    if study.candidates:
        lines.append(f"{'series':<28}{''.join(f'{heading:>12}' for heading in MARKS.values())}  what became of it")
        lines += _candidates(study.candidates)
    lines += [f"{lost.series_key:<28}{lost.n_slices:>5} slices, no candidate: {lost.reason}" for lost in study.lost]
    return [*lines, "Marks decide from left to right, more is better; what each reason means: docs/reasons.md"]


def _study(manifest: Manifest, name: str) -> Study:
    for number, entry in enumerate(manifest.entries):
        if entry.study_key == name:
            return manifest.study(number)
    studies = (manifest.study(number) for number in range(len(manifest.entries)))
    found = next((study for study in studies if study.study_uid == name), None)
    if found is None:
        raise ConfigurationError("no study of that UID or study_key is in the manifest; studies.csv names every study_key")
    return found


def _doubts(study: Study) -> list[str]:
    return [f"of the study: {event.code}" for event in study.events if event.scope == "study"]


def _candidates(candidates: tuple[Series, ...]) -> Iterator[str]:
    """A line for each candidate, the chosen one first, and one for what was noted of it."""
    best = SeriesRank.of_score(candidates[0].score)
    for number, series in enumerate(candidates):
        marks = SeriesRank.of_score(series.score)
        verdict = f"lost: {why_lost(marks, best)}" if number else "chosen"
        yield f"{series.series_key:<28}{''.join(f'{asdict(marks)[mark]:>12}' for mark in MARKS)}  {verdict}"
        facts = series.facts
        about = [
            facts.manufacturer,
            facts.kernel,
            f"{facts.slice_thickness_mm} mm thick",
            f"{facts.spacing_between_mm} mm apart",
        ]
        noted = [f"{event.code} {event.count}" for event in series.events]
        yield "  " + "; ".join(part for part in (*about, *noted) if part)
