"""Slices of one stack -> anatomical order: what positions and orientations allow, by the rules of docs/reasons.md.

A slice is known here by its header; places are millimetres along the stack's normal, which points to +z (superior). Cosines are
made unit and orthogonal before they are used: some writers round them to two digits.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.archive.found import Header
from pipeline.errors import Reason, StudyError
from pipeline.records import Affine, Event

UNIT_TOLERANCE = 0.02
MAX_DROPPED = 0.05
"""Of a series' slices so many may be left out, each counted; more are a reason."""
MIN_NORMAL_Z = 0.9
DUPLICATE_MM = 0.01
GAP_FACTOR = 1.5
WIDEST_MM, FARTHEST_MM = 4_000.0, 1e6
"""No scanner's field of view is wider, no table longer: such a number is damaged, and would cost memory downstream."""
TILT_WARN_DEGREES = 1.0
TILT_MAX_DEGREES = 30.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices at distinct places in ascending order, their orientation, and how many more there were at these places."""

    images: tuple[Header, ...]
    z_mm: Floats
    orientation: Floats
    n_extra: int = 0


def geometry_problem(header: Header) -> str:
    """Why a slice has no place in space, or none across the body."""
    if len(header.position) != 3 or len(header.orientation) != 6 or len(header.spacing_mm) != 2:
        return Reason.MISSING_GEOMETRY
    problem = _orientation_problem(header.orientation)
    if problem == Reason.MISSING_GEOMETRY:
        return problem
    field_mm = header.source.rows * header.spacing_mm[0], header.source.columns * header.spacing_mm[1]
    if min(header.spacing_mm) <= 0 or max(field_mm) > WIDEST_MM or max(map(abs, header.position)) > FARTHEST_MM:
        return Reason.INVALID_VALUE
    return problem


@lru_cache(1024)
def _orientation_problem(orientation: tuple[float, ...]) -> str:
    """Why six cosines are none, or none of a slice across the body; those of a series are mostly the same."""
    a, b, c, d, e, f = orientation
    off_unit = max(abs(math.hypot(a, b, c) - 1), abs(math.hypot(d, e, f) - 1))
    if off_unit > UNIT_TOLERANCE or abs(a * d + b * e + c * f) > UNIT_TOLERANCE:
        return Reason.MISSING_GEOMETRY
    normal = b * f - c * e, c * d - a * f, a * e - b * d
    return "" if abs(normal[2]) >= MIN_NORMAL_Z * math.hypot(*normal) else Reason.NOT_AXIAL


def ordered(images: list[Header], events: list[Event]) -> Stack:
    """One slice a place along +z, of the commonest acquisition; the others are noted in `events`."""
    common = Counter(image.traits.lasting() for image in images)
    groups = same_place(sorted(images, key=lambda image: -common[image.traits.lasting()]) if len(common) > 1 else images)
    kept = [group[0] for group in groups]
    n_extra = len(images) - len(kept)
    if n_extra:
        events.append(Event("series", "select", Reason.DUPLICATE_SLICES, n_extra))
    files = {(image.sop_uid, image.source.path, image.source.member) for image in kept}
    if len({uid for uid, _, _ in files}) < len(files):
        events.append(Event("series", "select", Reason.UID_CONFLICT))
    return Stack(tuple(kept), places_mm(kept), _median_orientation(kept), n_extra)


def note_irregularities(stack: Stack, events: list[Event]) -> None:
    """Gaps and tilt as warnings. Raises StudyError GANTRY_TILT beyond what slice-by-slice reading bears."""
    gaps = np.diff(stack.z_mm)
    n_gaps = int((gaps > GAP_FACTOR * middle(gaps)).sum())
    if n_gaps:
        events.append(Event("series", "select", Reason.SLICE_GAP, n_gaps))
    tilt = _tilt_degrees(stack)
    if tilt > TILT_MAX_DEGREES:
        raise StudyError(Reason.GANTRY_TILT, "select")
    if tilt > TILT_WARN_DEGREES:
        events.append(Event("series", "select", Reason.GANTRY_TILT))


def to_original(stack: Stack) -> tuple[Affine, bool]:
    """(volume edges -> stored edges, transposed): stored columns run along the first cosine, rows along the second."""
    source = stack.images[0].source
    along_columns = stack.orientation[:3]
    along_rows = stack.orientation[3:]
    if abs(along_columns[0]) >= abs(along_rows[0]):
        a, c = (1.0, 0.0) if along_rows[1] > 0 else (-1.0, float(source.rows))
        e, f = (1.0, 0.0) if along_columns[0] > 0 else (-1.0, float(source.columns))
        return (a, 0.0, c, 0.0, e, f), False
    b, c = (1.0, 0.0) if along_rows[0] > 0 else (-1.0, float(source.rows))
    d, f = (1.0, 0.0) if along_columns[1] > 0 else (-1.0, float(source.columns))
    return (0.0, b, c, d, 0.0, f), True


def same_place(images: list[Header]) -> list[list[Header]]:
    """Images by place, in ascending order; within a place in the order given."""
    groups: list[list[Header]] = []
    numbers = place_numbers(places_mm(images)).tolist()
    for image, number in sorted(zip(images, numbers, strict=True), key=lambda pair: pair[1]):
        if number == len(groups):
            groups.append([])
        groups[-1].append(image)
    return groups


def place_numbers(places: Floats) -> npt.NDArray[np.int64]:
    """The number of each place, counted from the lowest; what lies within DUPLICATE_MM shares one."""
    numbers = np.empty(len(places), np.int64)
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order])
    if (steps > DUPLICATE_MM).all():
        numbers[order] = np.arange(len(places))
        return numbers
    number = -1
    last = -np.inf
    for i, place in zip(order.tolist(), places[order].tolist(), strict=True):
        if place - last > DUPLICATE_MM:
            number = number + 1
            last = place
        numbers[i] = number
    return numbers


def places_mm(images: list[Header]) -> Floats:
    """Each image's place along the normal of their median orientation."""
    return np.asarray(np.array([image.position for image in images]) @ normal_of(_median_orientation(images)))


def normal_of(orientation: Floats) -> Floats:
    """The unit normal of two nearly unit, nearly orthogonal cosines; it points to +z."""
    a, b, c, d, e, f = orientation.tolist()
    normal = np.array([b * f - c * e, c * d - a * f, a * e - b * d])
    return np.asarray(normal / np.linalg.norm(normal) * np.sign(normal[2]))


def middle(values: Floats) -> float:
    """The median, as numpy has it, of few numbers in a tenth of the time; NaN of none."""
    ordered = np.sort(values).tolist()
    half = len(ordered) // 2
    if not ordered:
        return math.nan
    return float(ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2)


def _median_orientation(images: list[Header]) -> Floats:
    if len({image.orientation for image in images}) == 1:
        return np.array(images[0].orientation)
    return np.asarray(np.median([image.orientation for image in images], axis=0))


def _tilt_degrees(stack: Stack) -> float:
    """Angle between the normal and the way from the lowest slice to the highest."""
    step = np.subtract(stack.images[-1].position, stack.images[0].position)
    along = abs(step @ normal_of(stack.orientation)) / max(float(np.linalg.norm(step)), 1e-9)
    return float(np.degrees(np.arccos(min(1.0, along))))
