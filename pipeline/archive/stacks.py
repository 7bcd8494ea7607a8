"""Slices of one series -> its stacks: sets of slices that one acquisition took, of one geometry, none of them mixed.

A series may hold several acquisitions: phases of a heartbeat or a breath at the same positions, two passes whose positions
interleave, two energies, two reconstructions. A trait of the headers tells them apart where its values lie *over* each other
along the body; values that merely follow each other (an acquisition a station, a time a slice) belong to one stack. Where no
header tells, positions do: regular grids that lie in each other are as many stacks. Comparisons bear errors of the last digits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import chain, groupby

import numpy as np

from pipeline.archive.acquisitions import Floats, Images, Labels, Numbers, trait_labels
from pipeline.archive.geometry import MAX_DROPPED, place_numbers, places_mm
from pipeline.archive.grids import grid_labels
from pipeline.errors import Reason, StudyError
from pipeline.records import Event

SAME_COSINE = 0.02
"""Cosines of one orientation differ by less than this."""
SAME_SPACING = 1e-3
"""Pixel spacings of one reconstruction differ by less than this share: half a pixel over a matrix of 512."""
MIN_STACK = 8
"""Slices that the largest stack has at least, where values lie over each other; else they part what nothing can join again."""

Groups = dict[str | int, list[int]]


def split_stacks(images: Images, events: list[Event]) -> list[Images]:
    """The stacks that one series holds. Raises StudyError where slices of several geometries cannot be told apart."""
    images = _without_copies(images, events)
    if len({(one.orientation, one.spacing_mm, one.source.rows, one.source.columns) for one in images}) == 1:
        return _by_traits(images)
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
    if not are_told and _n_over(groups, place_numbers(places_mm(images))) <= MAX_DROPPED * len(images):
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
    z_mm = places_mm(images)
    places = place_numbers(z_mm)
    best: Groups = {}
    widest = 0
    for labels in chain(trait_labels(images, places, z_mm), [grid_labels(images, places, z_mm)]):
        groups = _grouped(labels) if len(set(labels)) > 1 else {}
        if groups and _n_over(groups, places, trimmed=True) > MAX_DROPPED * len(images):
            covered = max(len(set(places[group].tolist())) for group in groups.values())
            if covered > widest:
                best = groups
                widest = covered
    if not best:
        return [images]
    if widest < MIN_STACK:
        raise StudyError(Reason.MULTIPLE_STACKS, "select")
    return [stack for name in sorted(best) for stack in _by_traits([images[i] for i in best[name]])]


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
