"""Headers of one study -> its ranked candidate series, or the reason for which it has none (docs/reasons.md)."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace as changed

from pipeline.archive.describe import CT
from pipeline.archive.found import FileRecord, Header
from pipeline.archive.geometry import MAX_DROPPED, Stack, geometry_problem, middle, note_irregularities, ordered, to_original
from pipeline.archive.patient import PLACEHOLDER_IDS, Who, agreed, identity, patient_of
from pipeline.archive.ranking import REFORMATS, Candidate, best_first, rank, why_lost
from pipeline.archive.rules import is_forbidden
from pipeline.archive.stacks import split_stacks
from pipeline.archive.syntax import NO_HU, study_cost
from pipeline.config import SeriesConfig
from pipeline.errors import Reason, StudyError
from pipeline.pseudonym import pseudonym
from pipeline.records import Event, LostSeries, Series, Study

LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM"})
PROJECTIONS = frozenset({"MIP", "MINIP", "PROJECTION IMAGE", "SCREEN SAVE", "DOSE", "DOSE_INFO"})
EARLY = (Reason.NON_IMAGE_ONLY, Reason.NO_CT, Reason.LOCALIZER_ONLY, Reason.NOT_AXIAL, Reason.REFORMATTED)
DAMAGE = frozenset({Reason.TRUNCATED_PIXEL_DATA, Reason.DECOMPRESSION_BOMB, Reason.UID_CONFLICT})
"""Reasons of a broken input (FAILED); the others say that a sound one is not ours (EXCLUDED)."""


@dataclass(slots=True)
class _Found:
    """What the series of one study give: candidates, or (name, slices, why none)."""

    config: SeriesConfig
    key: bytes
    candidates: list[Candidate] = field(default_factory=list)
    lost: list[tuple[str, int, StudyError]] = field(default_factory=list)


def build_study(uid: str, records: Sequence[FileRecord], config: SeriesConfig, key: bytes) -> Study:
    """The study of all `records` that hold images of it, whatever folder or container they stand in."""
    by_series: dict[str, list[Header]] = defaultdict(list)
    headers = [header for record in records for header in record.headers if header.study_uid == uid]
    for header in sorted(headers, key=lambda header: (header.source.path, header.source.member, header.source.frame)):
        by_series[header.series_uid].append(header)
    found = _Found(config, key)
    for series_uid, members in sorted(by_series.items()):
        _add_series(series_uid, members, found)
    ranked = _of_one_patient(best_first(found.candidates), found)
    reason = "" if ranked else _reason_of_none(found.lost)
    patient, written, doubts = _patient(ranked, headers, uid)
    return Study(
        study_key=pseudonym(key, "study", uid),
        patient_key=pseudonym(key, "patient", patient),
        study_uid=uid,
        patient_id=written,
        candidates=tuple(candidate.series for candidate in ranked),
        status="READY" if ranked else "FAILED" if reason in DAMAGE else "EXCLUDED",
        reason=reason,
        events=(*doubts, *_lost_events(ranked, found.lost)),
        cost=_cost(ranked[0].series) if ranked else 0.0,
        n_files=sum(any(header.study_uid == uid for header in record.headers) for record in records),
        lost=tuple(LostSeries(pseudonym(key, "series", name), n, error.reason) for name, n, error in found.lost),
    )


def _of_one_patient(ranked: list[Candidate], found: _Found) -> list[Candidate]:
    """The candidates that may be of the first one's patient: a study never falls back on somebody else."""
    kept: list[Candidate] = []
    for candidate in ranked:
        try:
            agreed([ranked[0].who, candidate.who])
            kept.append(candidate)
        except StudyError as error:
            found.lost.append((candidate.series.series_uid, candidate.series.facts.n_slices, error))
    return kept


def _patient(ranked: list[Candidate], headers: list[Header], study_uid: str) -> tuple[str, str, list[Event]]:
    """(patient, the same with the ID as it is written, doubts): the chosen series says who it is, reports and captures do not.

    A placeholder, or a contradiction where no series is chosen, never merges strangers: such a study is its own patient.
    """
    alone = f"study {study_uid}"
    try:
        issuer, name, _ = ranked[0].who if ranked else patient_of([h for h in headers if h.sop_class in CT] or headers)
    except StudyError as error:
        return alone, alone, [Event("study", "select", error.reason)]
    if name.upper() in PLACEHOLDER_IDS:
        return alone, identity(alone, name), [Event("study", "select", Reason.PLACEHOLDER_ID)]
    return identity(issuer, name), identity(issuer, name), []


def _lost_events(ranked: list[Candidate], lost: list[tuple[str, int, StudyError]]) -> list[Event]:
    """Why each series that is not the first choice is not."""
    behind = Counter(why_lost(candidate.rank, ranked[0].rank) for candidate in ranked[1:])
    events = [Event("series", error.stage, error.reason, count) for _, count, error in lost]
    return events + [Event("series", "select", reason, count) for reason, count in sorted(behind.items())]


def _reason_of_none(lost: list[tuple[str, int, StudyError]]) -> str:
    """Why a study has no candidate: the reason of the series that came furthest, else of the largest."""

    def how_far(item: tuple[str, int, StudyError]) -> tuple[int, int]:
        _, n_files, error = item
        return EARLY.index(error.reason) if error.reason in EARLY else len(EARLY), n_files

    return max(lost, key=how_far)[2].reason.value if lost else Reason.NO_SUITABLE_SERIES.value


def _add_series(uid: str, headers: list[Header], found: _Found) -> None:
    """The candidates that one series gives: one a stack, or the reason for which there is none."""
    events: list[Event] = []
    try:
        images = _usable(_axial_ct(headers, events), events)
        who = patient_of(images)
        stacks = split_stacks(images, events)
    except StudyError as error:
        found.lost.append((uid, len(headers), error))
        return
    if len(stacks) > 1:
        events.append(Event("series", "select", Reason.MULTIPLE_STACKS, len(stacks)))
    for number, stack in enumerate(stacks):
        name = f"{uid}#{number}" if number else uid
        try:
            found.candidates.append(_candidate(name, stack, list(events), who, found))
        except StudyError as error:
            found.lost.append((name, len(stack), error))


def _axial_ct(headers: list[Header], events: list[Event]) -> list[Header]:
    images = [header for header in headers if header.sop_class in CT]
    if not images:
        has_pixels = any(header.has_pixels for header in headers)
        raise StudyError(Reason.NO_CT if has_pixels else Reason.NON_IMAGE_ONLY, "select")
    slices = [header for header in images if not LOCALIZERS & set(header.image_type)]
    if not slices:
        raise StudyError(Reason.LOCALIZER_ONLY, "select")
    axial = [header for header in slices if _is_axial(header)]
    if not axial:
        raise StudyError(Reason.NOT_AXIAL, "select")
    chosen = _not_reformatted(axial)
    for reason, n_doubtful in (
        (Reason.NO_CT, len(headers) - len(images)),
        (Reason.LOCALIZER_ONLY, len(images) - len(slices)),
        (Reason.NOT_AXIAL, len(slices) - len(axial)),
        (Reason.REFORMATTED, len(axial) - len(chosen) or sum(_is(REFORMATS, header) for header in chosen)),
    ):
        if n_doubtful:
            events.append(Event("series", "select", reason, n_doubtful))
    return chosen


def _not_reformatted(axial: list[Header]) -> list[Header]:
    """The slices as the scanner made them, or for want of them its axial reformats: HU too. A projection's values are none."""
    pictures = [header for header in axial if not _is(PROJECTIONS, header)]
    if not pictures:
        raise StudyError(Reason.REFORMATTED, "select")
    return [header for header in pictures if not _is(REFORMATS, header)] or pictures


def _is(kinds: frozenset[str], header: Header) -> bool:
    return not kinds.isdisjoint(header.image_type)


def _is_axial(header: Header) -> bool:
    return geometry_problem(header) != Reason.NOT_AXIAL


def _usable(images: list[Header], events: list[Event]) -> list[Header]:
    """Slices without a problem; a few may be dropped, more make the series useless."""
    problems = [header.problem or geometry_problem(header) for header in images]
    counts = Counter(problem for problem in problems if problem)
    if sum(counts.values()) > MAX_DROPPED * len(images):
        code = min(counts, key=lambda code: (-counts[code], code))
        raise StudyError(Reason(code), "select")
    events += [Event("series", "select", code, count) for code, count in sorted(counts.items())]
    usable = [header for header, problem in zip(images, problems, strict=True) if not problem]
    for reason, n_doubtful in (
        (Reason.PIXEL_FORMAT, sum(header.inverted for header in usable)),
        (Reason.NOT_HU, sum(header.source.syntax in NO_HU for header in usable)),
    ):
        if n_doubtful:
            events.append(Event("series", "select", reason, n_doubtful))
    return usable


def _candidate(name: str, images: list[Header], events: list[Event], who: Who, found: _Found) -> Candidate:
    """One stack as a candidate. Raises StudyError with the reason for which it is none."""
    stack = ordered(images, events)
    config = found.config
    if is_forbidden(stack.images[0], config):
        raise StudyError(Reason.SERIES_FORBIDDEN, "select")
    _check_places(stack, config)
    note_irregularities(stack, events)
    first = stack.images[0]
    marks = rank(stack, config)
    affine, turned = to_original(stack)
    row_mm, column_mm = first.spacing_mm
    series = Series(
        series_key=pseudonym(found.key, "series", name),
        series_uid=name,
        seed=seed(name.encode("utf-8", "surrogateescape")),
        slices=tuple(
            changed(header.source, z_mm=z_mm, place=place)
            for place, (header, z_mm) in enumerate(zip(stack.images, stack.z_mm.tolist(), strict=True))
        ),
        spacing_mm=(column_mm, row_mm) if turned else (row_mm, column_mm),
        original_affine=affine,
        score=marks.score(),
        events=tuple(events),
        facts=changed(
            first.facts,
            spacing_between_mm=round(middle(np.diff(stack.z_mm)), 4),
            z_extent_mm=round(float(stack.z_mm[-1] - stack.z_mm[0]), 3),
            n_slices=len(stack.z_mm),
        ),
    )
    return Candidate(marks, series, who)


def _check_places(stack: Stack, config: SeriesConfig) -> None:
    """Raises StudyError MULTIPLE_STACKS where many places have several slices, and nothing says which belong together."""
    if len(stack.z_mm) < config.min_slices:
        raise StudyError(Reason.TOO_FEW_SLICES, "select")
    if stack.n_extra > MAX_DROPPED * (len(stack.z_mm) + stack.n_extra):
        raise StudyError(Reason.MULTIPLE_STACKS, "select")
    extent = stack.z_mm[-1] - stack.z_mm[0]
    if extent < config.min_extent_mm or middle(np.diff(stack.z_mm)) > config.max_spacing_mm:
        raise StudyError(Reason.NO_SUITABLE_SERIES, "select")


def seed(name: bytes) -> int:
    """What seeds a series' fill: 63 bits of its name's SHA-256."""
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1


def _cost(series: Series) -> float:
    source = series.slices[0]
    return study_cost(source.syntax, source.rows, source.columns)
