"""Headers -> studies: group by UIDs, sort by position, filter, rank the candidate series (docs/reasons.md)."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.archive.headers import FileRecord, Header
from pipeline.config import SeriesConfig
from pipeline.errors import Reason, StudyError
from pipeline.pseudonym import pseudonym
from pipeline.records import Affine, Event, Series, SliceSource, Study

CT = frozenset({"1.2.840.10008.5.1.4.1.1.2"})
LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM"})
REFORMATS = frozenset({"MIP", "MINIP", "MPR", "REFORMATTED", "PROJECTION IMAGE", "SCREEN SAVE", "DOSE", "DOSE_INFO"})
PLACEHOLDER_IDS = frozenset({"", "0", "ANONYMOUS", "ANONYMIZED", "ANON", "UNKNOWN", "NONE", "NA", "N/A", "TEST"})
MAX_DROPPED = 0.05
DUPLICATE_MM = 0.01
SYNTAX_COST = {"4.90": 28.0, "4.91": 28.0, "4.80": 5.0, "4.81": 5.0, "4.70": 4.0, "4.57": 4.0}
SHARP = ("LUNG", "BONE", "SHARP", "B6", "B7", "B8", "BL", "BR6", "FC5", "D40", "YC", "EDGE", "L")


def build_studies(records: Iterable[FileRecord], config: SeriesConfig, key: bytes) -> tuple[list[Study], list[Event], int]:
    """(studies by key, reasons of files outside any study, number of files): every record is counted once."""
    by_study: dict[str, list[FileRecord]] = defaultdict(list)
    pictures: dict[str, list[FileRecord]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    n_files = 0
    for record in records:
        n_files += 1
        if record.reason:
            left_out[record.reason] += 1
        elif record.header is not None:
            by_study[record.header.study_uid].append(record)
        else:
            pictures[record.path.rpartition("/")[0]].append(record)
    studies = [_study(uid, by_study[uid], config, key) for uid in sorted(by_study)]
    studies += [_picture_study(folder, files, key) for folder, files in sorted(pictures.items())]
    events = [Event("file", "walk", code, count) for code, count in sorted(left_out.items())]
    return sorted(studies, key=lambda study: study.study_key), events, n_files


def _study(uid: str, records: list[FileRecord], config: SeriesConfig, key: bytes) -> Study:
    by_series: dict[str, list[Header]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.path):
        if record.header is not None:
            by_series[record.header.series_uid].append(record.header)
    candidates: list[Series] = []
    lost: list[tuple[int, StudyError]] = []
    for series_uid, headers in sorted(by_series.items()):
        try:
            candidates.append(_series(series_uid, headers, config, key))
        except StudyError as error:
            lost.append((len(headers), error))
    candidates.sort(key=lambda series: (-series.score, series.series_uid))
    patient, named = _patient(records, uid)
    events = [Event("series", error.stage, error.reason, count) for count, error in lost]
    if not named:
        events.append(Event("study", "select", Reason.MISSING_UID))
    reason = "" if candidates else _telling(lost)
    return Study(
        study_key=pseudonym(key, "study", uid),
        patient_key=pseudonym(key, "patient", patient),
        study_uid=uid,
        patient_id=patient,
        candidates=tuple(candidates),
        status="READY" if candidates else "FAILED" if reason == Reason.TRUNCATED_PIXEL_DATA else "EXCLUDED",
        reason=reason,
        events=tuple(events),
        cost=_cost(candidates[0]) if candidates else 0.0,
        n_files=len(records),
    )


def _patient(records: Sequence[FileRecord], study_uid: str) -> tuple[str, bool]:
    """(patient, known): a placeholder ID never merges strangers, so such a study is its own patient."""
    header = records[0].header
    patient = header.patient_id if header else ""
    if patient.rpartition("\\")[2].strip().upper() in PLACEHOLDER_IDS:
        return f"study {study_uid}", False
    return patient, True


def _telling(lost: list[tuple[int, StudyError]]) -> str:
    """Why a study has no candidate: the reason of the series that came furthest, else of the largest."""
    weak = (Reason.NON_IMAGE_ONLY, Reason.NO_CT, Reason.LOCALIZER_ONLY, Reason.NOT_AXIAL)
    order = sorted(lost, key=lambda pair: (-(pair[1].reason not in weak), -weak_rank(pair[1].reason, weak), -pair[0]))
    return order[0][1].reason.value if order else Reason.NO_SUITABLE_SERIES.value


def weak_rank(reason: Reason, weak: tuple[Reason, ...]) -> int:
    """How far a series came that fell to one of the early filters."""
    return weak.index(reason) if reason in weak else len(weak)


def _series(uid: str, headers: list[Header], config: SeriesConfig, key: bytes) -> Series:
    """One series as a candidate. Raises StudyError with the reason for which it is none."""
    events: list[Event] = []
    images = _axial_ct(headers, events)
    images = _usable(images, events)
    images = _one_matrix(images, events)
    if len({header.sop_uid for header in images}) < len(images):
        events.append(Event("series", "select", Reason.UID_CONFLICT))
    orientation = np.median([header.orientation for header in images], axis=0)
    normal = np.cross(orientation[:3], orientation[3:])
    normal *= np.sign(normal[2])
    placed = sorted(((float(np.dot(normal, header.position)), i) for i, header in enumerate(images)))
    placed = _distinct(placed, images, events)
    z = np.array([place for place, _ in placed])
    _check_extent(z, config, events)
    first = images[placed[0][1]]
    spacing = first.spacing_mm
    affine, turned = _affine(orientation, first.source.rows, first.source.columns)
    gaps = np.diff(z)
    facts = replace(
        first.facts,
        spacing_between_mm=round(float(np.median(gaps)), 4),
        z_extent_mm=round(float(z[-1] - z[0]), 3),
        n_slices=len(z),
    )
    codes = tuple(dict.fromkeys(events))
    return Series(
        series_key=pseudonym(key, "series", uid),
        series_uid=uid,
        seed=int.from_bytes(hashlib.sha256(uid.encode("utf-8", "surrogateescape")).digest()[:8], "big") >> 1,
        slices=tuple(replace(images[i].source, z_mm=place) for place, i in placed),
        spacing_mm=(spacing[1], spacing[0]) if turned else (spacing[0], spacing[1]),
        original_affine=affine,
        score=_score(first, z, config),
        events=codes,
        facts=facts,
    )


def _axial_ct(headers: list[Header], events: list[Event]) -> list[Header]:
    images = [header for header in headers if header.sop_class in CT]
    if not images:
        raise StudyError(Reason.NO_CT, "select")
    axial = [header for header in images if not LOCALIZERS & set(header.image_type)]
    if not axial:
        raise StudyError(Reason.LOCALIZER_ONLY, "select")
    if len(axial) < len(headers):
        events.append(Event("series", "select", Reason.LOCALIZER_ONLY, len(headers) - len(axial)))
    if all(REFORMATS & set(header.image_type) for header in axial):
        raise StudyError(Reason.NOT_AXIAL, "select")
    return axial


def _usable(images: list[Header], events: list[Event]) -> list[Header]:
    """Slices without a problem; a few may be dropped, more make the series useless."""
    problems = [header.problem or _geometry_problem(header) for header in images]
    counts = Counter(problem for problem in problems if problem)
    if sum(counts.values()) > MAX_DROPPED * len(images):
        code = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[0][0]
        raise StudyError(Reason(code), "select")
    events += [Event("series", "select", code, count) for code, count in sorted(counts.items())]
    return [header for header, problem in zip(images, problems, strict=True) if not problem]


def _geometry_problem(header: Header) -> str:
    if len(header.position) != 3 or len(header.orientation) != 6 or len(header.spacing_mm) != 2:
        return Reason.MISSING_GEOMETRY
    row, column = np.array(header.orientation[:3]), np.array(header.orientation[3:])
    if abs(row @ row - 1) > 2e-3 or abs(column @ column - 1) > 2e-3 or abs(row @ column) > 1e-3:
        return Reason.MISSING_GEOMETRY
    if min(header.spacing_mm) <= 0 or not np.isfinite([*header.position, *header.spacing_mm]).all():
        return Reason.INVALID_VALUE
    return "" if abs(np.cross(row, column)[2]) >= 0.9 else Reason.NOT_AXIAL


def _one_matrix(images: list[Header], events: list[Event]) -> list[Header]:
    """Slices of the commonest matrix, spacing and acquisition geometry."""
    shapes = Counter((header.source.rows, header.source.columns, header.spacing_mm) for header in images)
    common = max(sorted(shapes), key=lambda shape: shapes[shape])
    same = [h for h in images if (h.source.rows, h.source.columns, h.spacing_mm) == common]
    if len(same) < len(images):
        events.append(Event("series", "select", Reason.MIXED_GEOMETRY, len(images) - len(same)))
    return same


def _distinct(placed: list[tuple[float, int]], images: list[Header], events: list[Event]) -> list[tuple[float, int]]:
    """One slice a position: the first acquisition's where stacks repeat, else the first file's."""
    kept: list[tuple[float, int]] = []
    for place, i in sorted(placed, key=lambda item: (round(item[0], 2), images[item[1]].acquisition, item[1])):
        if not kept or place - kept[-1][0] > DUPLICATE_MM:
            kept.append((place, i))
    n_dropped = len(placed) - len(kept)
    if n_dropped:
        stacks = len({images[i].acquisition for _, i in placed}) > 1 and n_dropped > len(kept) // 2
        events.append(Event("series", "select", Reason.MULTIPLE_STACKS if stacks else Reason.DUPLICATE_SLICES, n_dropped))
    return kept


def _check_extent(z: npt.NDArray[np.float64], config: SeriesConfig, events: list[Event]) -> None:
    if len(z) < config.min_slices:
        raise StudyError(Reason.TOO_FEW_SLICES, "select")
    gaps = np.diff(z)
    if z[-1] - z[0] < config.min_extent_mm or np.median(gaps) > config.max_spacing_mm:
        raise StudyError(Reason.NO_SUITABLE_SERIES, "select")
    n_gaps = int((gaps > 1.5 * np.median(gaps)).sum())
    if n_gaps:
        events.append(Event("series", "select", Reason.SLICE_GAP, n_gaps))


def _affine(orientation: npt.NDArray[np.float64], rows: int, columns: int) -> tuple[Affine, bool]:
    """(volume edges -> stored edges, transposed): stored columns run along the first cosine, rows along the second."""
    along_columns, along_rows = orientation[:3], orientation[3:]
    turned = abs(along_columns[0]) < abs(along_rows[0])
    if not turned:
        a, c = (1.0, 0.0) if along_rows[1] > 0 else (-1.0, float(rows))
        e, f = (1.0, 0.0) if along_columns[0] > 0 else (-1.0, float(columns))
        return (a, 0.0, c, 0.0, e, f), False
    b, c = (1.0, 0.0) if along_rows[0] > 0 else (-1.0, float(rows))
    d, f = (1.0, 0.0) if along_columns[1] > 0 else (-1.0, float(columns))
    return (0.0, b, c, d, 0.0, f), True


def _score(header: Header, z: npt.NDArray[np.float64], config: SeriesConfig) -> float:
    """Digits by importance: original, extent, thickness, kernel, regular, no contrast, slices."""
    thickness = header.facts.slice_thickness_mm or 5.0
    gaps = np.diff(z)
    sharp = any(mark in header.facts.kernel.upper() for mark in SHARP)
    marks = (
        float("DERIVED" not in header.image_type[:1]),
        min(1.0, (z[-1] - z[0]) / 200.0),
        1.0 if thickness <= 2.5 else 0.6 if thickness <= 5 else 0.2,
        float(config.kernels == "any" or sharp == (config.kernels == "lung")),
        float(np.ptp(gaps) <= max(0.1, 0.05 * np.median(gaps))),
        float(not header.contrast),
        min(1.0, len(z) / 2000),
    )
    return round(float(sum(mark * 10.0 ** (6 - i) for i, mark in enumerate(marks))), 6)


def _cost(series: Series) -> float:
    source = series.slices[0]
    factor = next((cost for last, cost in SYNTAX_COST.items() if source.syntax.endswith(last)), 1.0)
    return float(15 * (20.0 + factor) * source.rows * source.columns / 512**2)


def _picture_study(folder: str, files: list[FileRecord], key: bytes) -> Study:
    """A folder of exported JPEG or PNG slices: one patient, ordered by the numbers in the names."""
    ordered = sorted(files, key=lambda file: _natural(file.path))
    name = folder or "."
    digest = hashlib.sha256(repr([(file.path.rpartition("/")[2], file.size) for file in ordered]).encode()).digest()
    slices = tuple(SliceSource(file.path, float(i), size=file.size) for i, file in enumerate(ordered))
    series = Series(
        pseudonym(key, "series", name), name, int.from_bytes(digest[:8], "big") >> 1, slices, (0.75, 0.75), kind="image"
    )
    keys = pseudonym(key, "study", name), pseudonym(key, "patient", name)
    return Study(*keys, study_uid=name, patient_id=name, candidates=(series,), cost=1.0, n_files=len(files))


def _natural(path: str) -> list[tuple[int, str]]:
    digits = "".join(c if c.isdigit() else " " for c in path.rpartition("/")[2]).split()
    return [(int(number), path) for number in digits] or [(0, path)]
