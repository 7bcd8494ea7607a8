"""What tells one acquisition of a series from another: every trait of the headers as a label for each slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.archive.found import Header
from pipeline.archive.geometry import DUPLICATE_MM

MAX_MISSING = 0.1
"""Share of the slices that may lack a value, which their neighbours' then stands for."""
NO_LEVEL = -1
"""The level of a slice that has no number."""
MIN_SWEEP = 10
"""Slices that a way through the body has on average, if the order of times or numbers is to mean something."""
LEVEL_SHARE = 0.03
"""Numbers are of two levels where the step between them exceeds this share of their range ..."""
LEVEL_RELATIVE = 0.005
"""... and this share of their size."""
PAUSE = 2.0
"""So many times the next wait is a pause between two ways through the body."""
SHORT_STEP = 0.75
"""A step that is shorter than this share of the one before is the last of a way."""
LARGEST = 1e15
"""Beyond it a number is none that a scanner writes."""

Images = list[Header]
Labels = Sequence[str | int]
Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def trait_labels(images: Images, places: Numbers, z_mm: Floats) -> Iterator[Labels]:
    """What each trait says of each image; traits that say the same of all are passed over."""
    told = zip(*(image.traits for image in images), strict=True)
    acquisition, moment, phase, trigger, kernel, frame, note, time, number = told
    kinds = [" ".join(image.image_type) for image in images]
    words = [] if all(text == "" or number_of(text) is not None for text in phase) else [phase]
    texts = (_plain(acquisition), _plain(moment), *words, kernel, frame, note, kinds, [str(image.contrast) for image in images])
    for text in texts:
        if len(set(text)) > 1:
            yield _filled(text, places, "")
    facts = [[image.facts.kvp for image in images], [image.facts.slice_thickness_mm for image in images]]
    for numbers in (*facts, [number_of(text) for text in phase], [number_of(text) for text in trigger]):
        if len(set(numbers)) > 1:
            yield _filled(_levels(numbers), places, NO_LEVEL)
    if len(set(time)) > 1:
        yield _filled(_plain(time), places, "")
    for order in (time, number):
        if len(set(order)) > 1:
            yield sweeps([number_of(text) for text in order], z_mm)


def _plain(texts: Sequence[str]) -> list[str]:
    """Numbers written alike, whatever zeros they were written with."""
    if len(set(texts)) == 1:
        return list(texts)
    numbers = [number_of(text) for text in texts]
    return [text if number is None else repr(number) for text, number in zip(texts, numbers, strict=True)]


def _filled(labels: Labels, places: Numbers, missing: str | int) -> Labels:
    """Where a few slices lack a value, that of the slice below (or above): what is missing contradicts nothing."""
    n_missing = sum(label == missing for label in labels)
    if not 0 < n_missing <= MAX_MISSING * len(labels):
        return labels
    filled = list(labels)
    order = np.argsort(places, kind="stable").tolist()
    known = next(filled[i] for i in order if filled[i] != missing)
    for i in order:
        known = filled[i] = known if filled[i] == missing else filled[i]
    return filled


def _levels(numbers: Sequence[float | None]) -> Labels:
    """Numbers by level: 119.9 and 120 are one, 80 and 140 are two."""
    known = np.unique([number for number in numbers if number is not None])
    if len(known) == 0:
        return [NO_LEVEL] * len(numbers)
    step = max(LEVEL_SHARE * float(np.ptp(known)), LEVEL_RELATIVE * float(np.abs(known).max()))
    level = dict(zip(known.tolist(), np.cumsum(np.diff(known, prepend=known[0]) > step).tolist(), strict=True))
    return [NO_LEVEL if number is None else level[number] for number in numbers]


def sweeps(numbers: Sequence[float | None], z_mm: Floats) -> Labels:
    """In the order of times or numbers, each way along the body in one direction; 0 for all where the order means nothing."""
    if None in numbers:
        return [0] * len(numbers)
    when, inverse, counts = np.unique(np.array(numbers, float), return_inverse=True, return_counts=True)
    moves = np.diff(np.bincount(inverse, z_mm) / counts)
    waits = np.diff(when)
    sweep_of = [0]
    onward = 0.0
    for i, move in enumerate(moves.tolist()):
        turns = abs(move) <= DUPLICATE_MM or move * onward < 0
        if turns and i > 1 and _belongs_to_next(i, moves, waits):
            sweep_of[-1] += 1
            sweep_of.append(sweep_of[-1])
            onward = move
        else:
            sweep_of.append(sweep_of[-1] + int(turns))
            onward = 0.0 if turns else move
    if len(numbers) < MIN_SWEEP * (sweep_of[-1] + 1):
        return [0] * len(numbers)
    return [sweep_of[i] for i in inverse.tolist()]


def _belongs_to_next(i: int, moves: Floats, waits: Floats) -> bool:
    """Whether the slice at a turn begins the way back: there was a pause before it, or a shorter step."""
    return bool(waits[i - 1] > PAUSE * waits[i] or abs(moves[i - 1]) < SHORT_STEP * abs(moves[i - 2]))


def number_of(text: str) -> float | None:
    """A number, a time of day, or a date and time (its zone left out); None for what is none, or beyond measure."""
    if not text:
        return None
    try:
        number = float(text.replace(":", "").partition("&")[0].partition("+")[0])
    except ValueError:
        return None
    return number if abs(number) < LARGEST else None
