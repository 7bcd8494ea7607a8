"""Slices of one series -> stacks in anatomical order: what positions and orientations allow, by the rules of docs/reasons.md.

A slice is known here by its header; places are millimetres along the stack's normal, which points to +z (superior).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.archive.found import Header
from pipeline.errors import Reason, StudyError
from pipeline.records import Affine, Event

UNIT_TOLERANCE = 1e-3
MIN_NORMAL_Z = 0.9
DUPLICATE_MM = 0.01
GAP_FACTOR = 1.5
WHOLE_SHARE = 0.75
"""A trait tells stacks apart only where one of them covers this much of all positions; else it merely varies along z."""
WIDEST_MM, FARTHEST_MM = 4_000.0, 1e6
"""No scanner's field of view is wider, no table longer: such a number is damaged, and would cost memory downstream."""
TILT_WARN_DEGREES, TILT_MAX_DEGREES = 1.0, 30.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices at distinct places in ascending order, and the orientation that they share."""

    images: tuple[Header, ...]
    z_mm: Floats
    orientation: Floats


def geometry_problem(header: Header) -> str:
    """Why a slice has no place in space, or none across the body."""
    if len(header.position) != 3 or len(header.orientation) != 6 or len(header.spacing_mm) != 2:
        return Reason.MISSING_GEOMETRY
    row, column = np.array(header.orientation[:3]), np.array(header.orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > UNIT_TOLERANCE or abs(row @ column) > UNIT_TOLERANCE:
        return Reason.MISSING_GEOMETRY
    field_mm = header.source.rows * header.spacing_mm[0], header.source.columns * header.spacing_mm[1]
    if min(header.spacing_mm) <= 0 or max(field_mm) > WIDEST_MM or max(map(abs, header.position)) > FARTHEST_MM:
        return Reason.INVALID_VALUE
    return "" if abs(np.cross(row, column)[2]) >= MIN_NORMAL_Z else Reason.NOT_AXIAL


def split_stacks(images: list[Header]) -> list[list[Header]]:
    """The stacks that one series holds: more than one only where positions repeat and the headers tell them apart."""
    groups = _same_place(images)
    traits = {id(image): _traits(image) for image in images}
    n_traits = len(_traits(images[0]))
    telling = [n for n in range(n_traits) if any(len({traits[id(image)][n] for image in group}) > 1 for group in groups)]
    if not telling:
        return [images]
    stacks: dict[str, list[Header]] = defaultdict(list)
    for image in images:
        stacks[repr([traits[id(image)][n] for n in telling])].append(image)
    largest = max(len(_same_place(stack)) for stack in stacks.values())
    return [stacks[name] for name in sorted(stacks)] if largest >= WHOLE_SHARE * len(groups) else [images]


def ordered(images: list[Header], events: list[Event]) -> Stack:
    """One slice a place, of one matrix and orientation, along +z; what had to be dropped is noted in `events`."""
    images = _commonest(images, _orientation, Reason.MIXED_ORIENTATION, events)
    images = _commonest(images, _matrix, Reason.MIXED_GEOMETRY, events)
    groups = _same_place(images)
    kept = [group[0] for group in groups]
    if len(kept) < len(images):
        events.append(Event("series", "select", Reason.DUPLICATE_SLICES, len(images) - len(kept)))
    files = {(image.sop_uid, image.source.path, image.source.member) for image in kept}
    if len({uid for uid, _, _ in files}) < len(files):
        events.append(Event("series", "select", Reason.UID_CONFLICT))
    return Stack(tuple(kept), _places(kept), _median_orientation(kept))


def note_irregularities(stack: Stack, events: list[Event]) -> None:
    """Gaps and tilt as warnings. Raises StudyError GANTRY_TILT beyond what slice-by-slice reading bears."""
    gaps = np.diff(stack.z_mm)
    n_gaps = int((gaps > GAP_FACTOR * np.median(gaps)).sum())
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
    along_columns, along_rows = stack.orientation[:3], stack.orientation[3:]
    if abs(along_columns[0]) >= abs(along_rows[0]):
        a, c = (1.0, 0.0) if along_rows[1] > 0 else (-1.0, float(source.rows))
        e, f = (1.0, 0.0) if along_columns[0] > 0 else (-1.0, float(source.columns))
        return (a, 0.0, c, 0.0, e, f), False
    b, c = (1.0, 0.0) if along_rows[0] > 0 else (-1.0, float(source.rows))
    d, f = (1.0, 0.0) if along_columns[1] > 0 else (-1.0, float(source.columns))
    return (0.0, b, c, d, 0.0, f), True


def _traits(image: Header) -> tuple[object, ...]:
    """What may tell stacks apart: acquisition, moment, kernel, orientation, matrix, image type, contrast."""
    return (*image.stack, _orientation(image), _matrix(image), image.image_type, image.contrast)


def _orientation(image: Header) -> tuple[float, ...]:
    return tuple(round(cosine, 2) + 0.0 for cosine in image.orientation)


def _matrix(image: Header) -> tuple[object, ...]:
    return image.source.rows, image.source.columns, tuple(round(mm, 4) for mm in image.spacing_mm)


def _commonest(images: list[Header], trait: object, reason: Reason, events: list[Event]) -> list[Header]:
    """The images that share the commonest value of a trait."""
    values = [trait(image) for image in images]  # type: ignore[operator]
    counts = Counter(values)
    if len(counts) == 1:
        return images
    common = max(sorted(counts), key=lambda value: counts[value])
    kept = [image for image, value in zip(images, values, strict=True) if value == common]
    events.append(Event("series", "select", reason, len(images) - len(kept)))
    return kept


def _same_place(images: list[Header]) -> list[list[Header]]:
    """Images by place, in ascending order; within a place in the order given."""
    places = _places(images)
    groups: list[list[Header]] = []
    last = -np.inf
    for i in np.argsort(places, kind="stable"):
        if places[i] - last > DUPLICATE_MM:
            groups.append([])
            last = places[i]
        groups[-1].append(images[i])
    return groups


def _median_orientation(images: list[Header]) -> Floats:
    return np.asarray(np.median([image.orientation for image in images], axis=0))


def _normal(orientation: Floats) -> Floats:
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(normal * np.sign(normal[2]))


def _places(images: list[Header]) -> Floats:
    return np.asarray(np.array([image.position for image in images]) @ _normal(_median_orientation(images)))


def _tilt_degrees(stack: Stack) -> float:
    """Angle between the normal and the way from the lowest slice to the highest."""
    step = np.subtract(stack.images[-1].position, stack.images[0].position)
    along = abs(step @ _normal(stack.orientation)) / max(float(np.linalg.norm(step)), 1e-9)
    return float(np.degrees(np.arccos(min(1.0, along))))
