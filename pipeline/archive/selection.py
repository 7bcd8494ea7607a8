"""Headers of one study -> its ranked candidate series, or the reason for which it has none (docs/reasons.md)."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.archive.describe import CT
from pipeline.archive.found import FileRecord, Header
from pipeline.archive.geometry import Stack, geometry_problem, note_irregularities, ordered, split_stacks, to_original
from pipeline.archive.ranking import REFORMATS, Rank, best_first, rank, why_lost
from pipeline.archive.syntax import NO_HU, cost
from pipeline.config import SeriesConfig
from pipeline.errors import Reason, StudyError
from pipeline.pseudonym import pseudonym
from pipeline.records import Event, Series, Study

LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM"})
PROJECTIONS = frozenset({"MIP", "MINIP", "PROJECTION IMAGE", "SCREEN SAVE", "DOSE", "DOSE_INFO"})
PLACEHOLDER_IDS = frozenset(
    {"", "0", "1", "ANONYMOUS", "ANONYMIZED", "ANONYMISED", "ANON", "UNKNOWN", "NONE", "NA", "N/A", "NULL", "TEST", "XXX"}
)
MAX_DROPPED = 0.05
EARLY = (Reason.NON_IMAGE_ONLY, Reason.NO_CT, Reason.LOCALIZER_ONLY, Reason.NOT_AXIAL, Reason.REFORMATTED)
DAMAGE = frozenset({Reason.TRUNCATED_PIXEL_DATA, Reason.DECOMPRESSION_BOMB})
"""Reasons of a broken input (FAILED); the others say that a sound one is not ours (EXCLUDED)."""

Candidate = tuple[Rank, Series]
Lost = tuple[int, StudyError]


def build_study(uid: str, records: Sequence[FileRecord], config: SeriesConfig, key: bytes) -> Study:
    """The study of all `records` that hold images of it, whatever folder or container they stand in."""
    by_series: dict[str, list[Header]] = defaultdict(list)
    headers = [header for record in records for header in record.headers if header.study_uid == uid]
    for header in sorted(headers, key=lambda header: (header.source.path, header.source.member, header.source.frame)):
        by_series[header.series_uid].append(header)
    candidates: list[Candidate] = []
    lost: list[Lost] = []
    for series_uid, members in sorted(by_series.items()):
        _add_series(series_uid, members, config, key, candidates=candidates, lost=lost)
    ranked = best_first(candidates)
    reason = "" if ranked else _telling(lost)
    patient, doubts = _patient(headers, uid)
    return Study(
        study_key=pseudonym(key, "study", uid),
        patient_key=pseudonym(key, "patient", patient),
        study_uid=uid,
        patient_id=patient,
        candidates=tuple(series for _, series in ranked),
        status="READY" if ranked else "FAILED" if reason in DAMAGE else "EXCLUDED",
        reason=reason,
        events=(*doubts, *_lost_events(ranked, lost)),
        cost=_cost(ranked[0][1]) if ranked else 0.0,
        n_files=sum(any(header.study_uid == uid for header in record.headers) for record in records),
    )


def _patient(headers: list[Header], study_uid: str) -> tuple[str, list[Event]]:
    """(patient, doubts): a placeholder or a contradiction never merges strangers, so such a study is its own patient."""
    patients = {header.patient_id for header in headers}
    if len(patients) > 1:
        return f"study {study_uid}", [Event("study", "select", Reason.UID_CONFLICT)]
    patient = patients.pop()
    if patient.rpartition("\\")[2].strip().upper() in PLACEHOLDER_IDS:
        return f"study {study_uid}", [Event("study", "select", Reason.PLACEHOLDER_ID)]
    return patient, []


def _lost_events(ranked: list[Candidate], lost: list[Lost]) -> list[Event]:
    """Why each series that is not the first choice is not."""
    behind = Counter(why_lost(marks, ranked[0][0]) for marks, _ in ranked[1:])
    events = [Event("series", error.stage, error.reason, count) for count, error in lost]
    return events + [Event("series", "select", reason, count) for reason, count in sorted(behind.items())]


def _telling(lost: list[Lost]) -> str:
    """Why a study has no candidate: the reason of the series that came furthest, else of the largest."""

    def how_far(item: Lost) -> tuple[int, int]:
        n_files, error = item
        return EARLY.index(error.reason) if error.reason in EARLY else len(EARLY), n_files

    return max(lost, key=how_far)[1].reason.value if lost else Reason.NO_SUITABLE_SERIES.value


def _add_series(
    uid: str, headers: list[Header], config: SeriesConfig, key: bytes, *, candidates: list[Candidate], lost: list[Lost]
) -> None:
    """The candidates that one series gives: one a stack, or the reason for which there is none."""
    events: list[Event] = []
    try:
        images = _usable(_axial_ct(headers, events), events)
    except StudyError as error:
        lost.append((len(headers), error))
        return
    stacks = split_stacks(images)
    if len(stacks) > 1:
        events.append(Event("series", "select", Reason.MULTIPLE_STACKS, len(stacks)))
    for number, stack in enumerate(stacks):
        name = f"{uid}#{number}" if number else uid
        try:
            candidates.append(_candidate(name, stack, list(events), config, key))
        except StudyError as error:
            lost.append((len(stack), error))


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


def _candidate(name: str, images: list[Header], events: list[Event], config: SeriesConfig, key: bytes) -> Candidate:
    """One stack as a candidate. Raises StudyError with the reason for which it is none."""
    stack = ordered(images, events)
    _check_extent(stack, config)
    note_irregularities(stack, events)
    first, marks = stack.images[0], rank(stack, config)
    affine, turned = to_original(stack)
    row_mm, column_mm = first.spacing_mm
    series = Series(
        series_key=pseudonym(key, "series", name),
        series_uid=name,
        seed=seed(name.encode("utf-8", "surrogateescape")),
        slices=tuple(
            replace(header.source, z_mm=z_mm, place=place)
            for place, (header, z_mm) in enumerate(zip(stack.images, stack.z_mm.tolist(), strict=True))
        ),
        spacing_mm=(column_mm, row_mm) if turned else (row_mm, column_mm),
        original_affine=affine,
        score=marks.score(),
        events=tuple(events),
        facts=replace(
            first.facts,
            spacing_between_mm=round(float(np.median(np.diff(stack.z_mm))), 4),
            z_extent_mm=round(float(stack.z_mm[-1] - stack.z_mm[0]), 3),
            n_slices=len(stack.z_mm),
        ),
    )
    return marks, series


def _check_extent(stack: Stack, config: SeriesConfig) -> None:
    if len(stack.z_mm) < config.min_slices:
        raise StudyError(Reason.TOO_FEW_SLICES, "select")
    extent = stack.z_mm[-1] - stack.z_mm[0]
    if extent < config.min_extent_mm or np.median(np.diff(stack.z_mm)) > config.max_spacing_mm:
        raise StudyError(Reason.NO_SUITABLE_SERIES, "select")


def seed(name: bytes) -> int:
    """What seeds a series' fill: 63 bits of its name's SHA-256."""
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1


def _cost(series: Series) -> float:
    source = series.slices[0]
    return 15 * (20.0 + cost(source.syntax)) * source.rows * source.columns / 512**2
