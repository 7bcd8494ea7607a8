"""A pictured study's data file: the pictures kept at screening, with what the networks say of each slice from results.h5.

Boxes come three ways: in the network's pixels, in the pixels of the volume's picture that is shown, and in the stored image's.
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Any

import msgspec

from pipeline.records import IDENTITY_AFFINE, Box
from pipeline.report.data import put
from pipeline.run.journal import Place
from pipeline.run.read_tables import Run
from pipeline.study.boxes import to_original
from pipeline.study.picture_pack import SlicePicture, StudyPictures, find_pictures, read_pictures

NUMBERS = ("score", "attention", "probability", "lung_fraction")


def write_pictures(folder: Path, run: Run, networks: list[str], places: dict[str, Place], most: int) -> set[str]:
    """images-KEY.js of the `most` highest-scoring studies that have pictures; their keys."""
    inputs = {key: place.input for key, place in places.items() if key}
    found = find_pictures(run.folder, inputs)
    studies = run.studies
    scores = studies[networks].max(axis=1)
    ranked = studies.loc[scores.sort_values(ascending=False, kind="stable").index, "study_key"]
    chosen = [key for key in ranked if key in found][:most]
    if chosen:
        with run.results as results:
            details = Details(results, len(networks))
            for key in chosen:
                put(folder / f"images-{key}.js", f"images-{key}", _study(read_pictures(found[key]), details.of(key)))
    return set(chosen)


class Details:
    """The details of results.h5, found by study in an open file's columns: those of studies and slices ascend."""

    def __init__(self, results: Any, n_networks: int) -> None:
        self._results, self._n_networks = results, n_networks

    def of(self, key: str) -> dict[int, list[list[dict[str, Any]]]]:
        """Slice index -> [network][detail] of one study."""
        row = bisect_left(self._results["studies/study_key"], key.encode())
        first = int(self._results["studies/first_slice"][row])
        last = first + int(self._results["studies/n_slices_scored"][row])
        slice_of_detail = self._results["details/slice"]
        start, end = bisect_left(slice_of_detail, first), bisect_left(slice_of_detail, last)
        read = {name: self._results[f"details/{name}"][start:end] for name in ("network", "box", "box_original", *NUMBERS)}
        indexes = self._results["slices/slice_index"][first:last].tolist()
        found: dict[int, list[list[dict[str, Any]]]] = {index: [[] for _ in range(self._n_networks)] for index in indexes}
        for place, of_slice in enumerate(slice_of_detail[start:end] - first):
            numbers = {name: round(float(read[name][place]), 4) for name in NUMBERS}
            boxes = {"box": read["box"][place].tolist(), "original": read["box_original"][place].round(2).tolist()}
            found[indexes[of_slice]][read["network"][place]].append({**boxes, **numbers})
        return found


def _study(pictures: StudyPictures, details: dict[int, list[list[dict[str, Any]]]]) -> dict[str, Any]:
    slices = [_slice(one, pictures.image_px, details.get(one.index, [])) for one in pictures.slices]
    return {"size": pictures.size, "image_px": pictures.image_px, "slices": slices}


def _slice(one: SlicePicture, image_px: int, details: list[list[dict[str, Any]]]) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(one)
    if one.crop is not None:
        value["details"] = [[{**each, "shown": _shown(each["box"], one.crop, image_px)} for each in of] for of in details]
    return value


def _shown(edges: list[float], crop: Box, image_px: int) -> list[float]:
    """A box of the network's picture in the volume's picture: top, left, bottom, right."""
    box = to_original(Box(*edges), crop, image_px, IDENTITY_AFFINE)
    return [round(edge, 2) for edge in (box.top, box.left, box.bottom, box.right)]
