"""Slices of one series -> its stacks: sets of slices that one acquisition took, of one geometry, none of them mixed.

A series may hold several acquisitions: phases of a heartbeat or a breath at the same positions, two passes whose positions
interleave, two energies, two reconstructions. A trait of the headers tells them apart where its values lie *over* each other
along the body; values that merely follow each other (an acquisition a station, a time a slice) belong to one stack. Where no
header tells, positions do: regular grids that lie in each other are as many stacks. Comparisons bear errors of the last digits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from pipeline.archive.found import Header
from pipeline.archive.geometry import DUPLICATE_MM, MAX_DROPPED, place_numbers, places_mm
from pipeline.archive.ranking import IRREGULAR_MM, IRREGULAR_SHARE
from pipeline.errors import Reason, StudyError
from pipeline.records import Event

SAME_COSINE = 0.02
SAME_SPACING = 1e-3
"""Pixel spacings of one reconstruction differ by less than this share: half a pixel over a matrix of 512."""
MIN_STACK = 8
"""Slices that the largest stack has at least, where values lie over each other; else they part what nothing can join again."""
MAX_MISSING = 0.1
NO_LEVEL = -1
MIN_SWEEP = 10
"""Slices that a way through the body has on average, if the order of times or numbers is to mean something."""
LEVEL_SHARE, LEVEL_RELATIVE = 0.03, 0.005
"""Numbers are of two levels where the step between them exceeds this share of their range, and of their size."""
PAUSE, SHORT_STEP = 2.0, 0.75
MAX_GRIDS, MIN_EVENNESS, MORE_EVEN, NEAR_SHARE = 4, 0.7, 0.1, 0.4
"""Grids are found where steps over all of them are even, and more so than single ones; a slice is on one if it is that near."""
LARGEST = 1e15
ROUNDING_MM = 1e-6
"""Of sums of decimal strings."""

Images = list[Header]
Labels = Sequence[str | int]
Groups = dict[str | int, list[int]]
Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def split_stacks(images: Images, events: list[Event]) -> list[Images]:
    """The stacks that one series holds. Raises StudyError where slices of several geometries cannot be told apart."""
    images = _without_copies(images, events)
    stacks: list[Images] = []
    for alike in _of_one_geometry(images, _orientations, SAME_COSINE, Reason.MIXED_ORIENTATION, events):
        for same in _of_one_geometry(alike, _matrices, SAME_SPACING, Reason.MIXED_GEOMETRY, events):
            stacks += _by_traits(same)
    return stacks


# ---- copies and geometry ----


def _without_copies(images: Images, events: list[Event]) -> Images:
    """Each instance once: the same UID, frame and acquisition again are a copy, unless they stand at several places."""
    if len({image.sop_uid for image in images}) == len(images):
        return images
    places: dict[object, set[tuple[float, ...]]] = defaultdict(set)
    for image in images:
        places[image.sop_uid, image.source.frame].add(image.position)
    met: set[object] = set()
    kept = []
    for image in images:
        instance = image.sop_uid, image.source.frame
        again = (*instance, image.traits, image.image_type, image.source.rows, image.spacing_mm)
        if not image.sop_uid or len(places[instance]) > 1 or again not in met:
            kept.append(image)
        met.add(again)
    if len(kept) < len(images):
        events.append(Event("series", "select", Reason.DUPLICATE_SLICES, len(images) - len(kept)))
    return kept


def _of_one_geometry(
    images: Images, value: Callable[[Images], Floats], tolerance: float, reason: Reason, events: list[Event]
) -> list[Images]:
    """The images by what `value` measures. A few of another geometry are dropped; many must be a stack of their own.

    Raises StudyError where they are many, lie beside the others, and bear the same headers: damage, not another acquisition.
    """
    groups = _near(images, value(images), tolerance)
    if len(groups) == 1:
        return [images]
    largest = max(groups.values(), key=len)
    n_others = len(images) - len(largest)
    if n_others <= MAX_DROPPED * len(images):
        events.append(Event("series", "select", reason, n_others))
        return [[images[i] for i in largest]]
    traits = [(image.traits.lasting(), image.image_type, image.contrast) for image in images]
    said = [{traits[i] for i in group} for group in groups.values()]
    are_told = len(set.union(*said)) == sum(map(len, said)) <= len(images) // 2
    if not are_told and _n_over(groups, place_numbers(images)) <= MAX_DROPPED * len(images):
        raise StudyError(reason, "select")
    return [[images[i] for i in groups[name]] for name in sorted(groups)]


def _orientations(images: Images) -> Floats:
    cosines = np.array([image.orientation for image in images]).reshape(-1, 2, 3)
    return np.asarray((cosines / np.linalg.norm(cosines, axis=2, keepdims=True)).reshape(-1, 6))


def _matrices(images: Images) -> Floats:
    """Rows, columns, and the logarithms of the spacing, so that a difference is a share."""
    sizes = np.array([(image.source.rows, image.source.columns) for image in images])
    return np.hstack([sizes, np.log([image.spacing_mm for image in images])])


def _near(images: Images, values: Floats, tolerance: float) -> Groups:
    """Images whose values lie within `tolerance` of a middle one, then the rest likewise: no bin's edge parts what is alike."""
    if (values == values[0]).all():
        return {0: list(range(len(images)))}
    groups: Groups = {}
    left = np.lexsort(values.T[::-1])
    while len(left):
        middle = values[left[len(left) // 2]]
        near = np.abs(values[left] - middle).max(axis=1) <= tolerance
        groups[len(groups)] = sorted(left[near].tolist())
        left = left[~near]
    return groups


# ---- acquisitions ----


def _by_traits(images: Images) -> list[Images]:
    """Split by the trait that leaves the largest stack, then each part likewise, until nothing tells any more.

    Raises StudyError MULTIPLE_STACKS where values lie over each other, and none of them has enough slices for a stack.
    """
    places = place_numbers(images)
    best: Groups = {}
    widest = 0
    for labels in _labelled(images, places):
        groups = _grouped(labels)
        if len(groups) > 1 and _n_over(groups, places, trimmed=True) > MAX_DROPPED * len(images):
            covered = max(len(set(places[group].tolist())) for group in groups.values())
            if covered > widest:
                best, widest = groups, covered
    if not best:
        return [images]
    if widest < MIN_STACK:
        raise StudyError(Reason.MULTIPLE_STACKS, "select")
    return [stack for name in sorted(best) for stack in _by_traits([images[i] for i in best[name]])]


def _labelled(images: Images, places: Numbers) -> Iterator[Labels]:
    """What each trait says of each image; traits that say the same of all are passed over."""
    told = zip(*(image.traits for image in images), strict=True)
    acquisition, moment, phase, trigger, kernel, frame, note, time, number = told
    kinds = [" ".join(image.image_type) for image in images]
    words = [] if all(text == "" or _number(text) is not None for text in phase) else [phase]
    texts = (_plain(acquisition), _plain(moment), *words, kernel, frame, note, kinds, [str(image.contrast) for image in images])
    for text in texts:
        if len(set(text)) > 1:
            yield _filled(text, places, "")
    facts = [[image.facts.kvp for image in images], [image.facts.slice_thickness_mm for image in images]]
    for numbers in (*facts, [_number(text) for text in phase], [_number(text) for text in trigger]):
        if len(set(numbers)) > 1:
            yield _filled(_levels(numbers), places, NO_LEVEL)
    if len(set(time)) > 1:
        yield _filled(_plain(time), places, "")
    z_mm = places_mm(images)
    for order in (time, number):
        if len(set(order)) > 1:
            yield _sweeps([_number(text) for text in order], z_mm)
    yield _grids(images, places, z_mm)


def _plain(texts: Sequence[str]) -> list[str]:
    """Numbers written alike, whatever zeros they were written with."""
    if len(set(texts)) == 1:
        return list(texts)
    numbers = [_number(text) for text in texts]
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


def _grouped(labels: Labels) -> Groups:
    groups: Groups = defaultdict(list)
    for place, label in enumerate(labels):
        groups[label].append(place)
    return groups


def _n_over(groups: Groups, places: Numbers, *, trimmed: bool = False) -> int:
    """How many slices lie at or between places of a larger group.

    `trimmed` leaves a few at each end of a group out of its reach: one slice with a wrong value is no acquisition.
    """
    label_of = {i: label for label, group in groups.items() for i in group}
    n_runs = sum(1 for _ in groupby(sorted(label_of, key=lambda i: (places[i], str(label_of[i]))), key=label_of.__getitem__))
    if n_runs == len(groups) and len(places) == int(places.max()) + 1:
        return 0
    covered = np.zeros(int(places.max()) + 1, bool)
    n_over = 0
    for _, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        own = np.sort(places[group])
        n_over += int(covered[own].sum())
        ends = int(MAX_DROPPED * len(own)) if trimmed else 0
        covered[own[ends] : own[len(own) - 1 - ends] + 1] = True
    return n_over


def _levels(numbers: Sequence[float | None]) -> Labels:
    """Numbers by level: 119.9 and 120 are one, 80 and 140 are two."""
    known = np.unique([number for number in numbers if number is not None])
    if len(known) == 0:
        return [NO_LEVEL] * len(numbers)
    step = max(LEVEL_SHARE * float(np.ptp(known)), LEVEL_RELATIVE * float(np.abs(known).max()))
    level = dict(zip(known.tolist(), np.cumsum(np.diff(known, prepend=known[0]) > step).tolist(), strict=True))
    return [NO_LEVEL if number is None else level[number] for number in numbers]


def _sweeps(numbers: Sequence[float | None], z_mm: Floats) -> Labels:
    """In the order of times or numbers, each way along the body in one direction; 0 for all where the order means nothing."""
    if None in numbers:
        return [0] * len(numbers)
    when, inverse, counts = np.unique(np.array(numbers, float), return_inverse=True, return_counts=True)
    moves, waits = np.diff(np.bincount(inverse, z_mm) / counts), np.diff(when)
    sweeps = [0]
    onward = 0.0
    for i, move in enumerate(moves.tolist()):
        turns = abs(move) <= DUPLICATE_MM or move * onward < 0
        if turns and i > 1 and _belongs_to_next(i, moves, waits):
            sweeps[-1] += 1
            sweeps.append(sweeps[-1])
            onward = move
        else:
            sweeps.append(sweeps[-1] + int(turns))
            onward = 0.0 if turns else move
    if len(numbers) < MIN_SWEEP * (sweeps[-1] + 1):
        return [0] * len(numbers)
    return [sweeps[i] for i in inverse.tolist()]


def _belongs_to_next(i: int, moves: Floats, waits: Floats) -> bool:
    """Whether the slice at a turn begins the way back: there was a pause before it, or a shorter step."""
    return bool(waits[i - 1] > PAUSE * waits[i] or abs(moves[i - 1]) < SHORT_STEP * abs(moves[i - 2]))


def _number(text: str) -> float | None:
    """A number, a time of day, or a date and time (its zone left out); None for what is none, or beyond measure."""
    try:
        number = float(text.replace(":", "").partition("&")[0].partition("+")[0])
    except ValueError:
        return None
    return number if abs(number) < LARGEST else None


# ---- grids ----


def _grids(images: Images, places: Numbers, all_mm: Floats) -> Labels:
    """Slices by regular grid: where steps differ but repeat after every second to fourth, that many grids lie in each other."""
    together = [0] * len(images)
    z_mm = np.full(int(places.max()) + 1, np.nan)
    z_mm[places] = all_mm
    if len(z_mm) < 2 * MIN_SWEEP:
        return together
    steps = np.diff(z_mm)
    bearable = max(IRREGULAR_MM, IRREGULAR_SHARE * float(np.median(steps))) + ROUNDING_MM
    evenness = _evenness(steps, bearable)
    if evenness >= 1 - MAX_DROPPED or _is_one_pass(images, all_mm):
        return together
    for n_grids in range(2, MAX_GRIDS + 1):
        pitches = z_mm[n_grids:] - z_mm[:-n_grids]
        if _evenness(pitches, bearable) >= max(MIN_EVENNESS, evenness + MORE_EVEN):
            nearest = min(bearable, NEAR_SHARE * float(np.quantile(steps, 0.1)))
            grids = _on_grids(z_mm, float(np.median(pitches)), n_grids, nearest)
            return [grids[number] for number in places.tolist()] if grids else together
    return together


def _is_one_pass(images: Images, z_mm: Floats) -> bool:
    """Whether times say that the scanner went along the body once, a few slices at a time: such gaps are its own."""
    times = [_number(image.traits.time) for image in images]
    n_times = len(set(times))
    return None not in times and n_times * MAX_GRIDS >= len(images) and not any(_sweeps(times, z_mm))


def _evenness(steps_mm: Floats, bearable_mm: float) -> float:
    """The share of steps that are alike."""
    return float(np.mean(np.abs(steps_mm - np.median(steps_mm)) <= bearable_mm))


def _on_grids(z_mm: Floats, pitch_mm: float, n_grids: int, bearable_mm: float) -> list[int]:
    """The grid on which each place lies, [] where they fit none: steps along a grid are whole numbers of pitches."""
    last: list[float] = []
    grids = []
    n_misfits = 0
    for z in z_mm.tolist():
        off = [abs((z - there + pitch_mm / 2) % pitch_mm - pitch_mm / 2) for there in last]
        nearest = min(range(len(off)), key=off.__getitem__, default=-1)
        misfits = nearest < 0 or off[nearest] > bearable_mm
        if misfits and len(last) < n_grids:
            nearest = len(last)
            last.append(z)
        elif misfits:
            n_misfits += 1
        last[nearest] = z
        grids.append(nearest)
    return grids if n_misfits <= MAX_DROPPED * len(grids) else []
