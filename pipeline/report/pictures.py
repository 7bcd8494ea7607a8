"""A pictured study's data file: the pictures kept at screening, with what the networks say of each slice from results.h5.

Boxes come three ways: in the network's pixels, in the pixels of the volume's picture that is shown, and in the stored image's.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import astuple
from pathlib import Path
from typing import Any

import msgspec

from pipeline.records import IDENTITY_AFFINE, Box, Detail, StudyResult
from pipeline.report.data import put
from pipeline.run.journal import LastRecord
from pipeline.run.read_tables import Run, open_run
from pipeline.run.run_toml import read_described
from pipeline.study.boxes import to_original
from pipeline.study.picture_pack import find_pictures, keep_deep, read_deep, read_pictures
from pipeline.study.pictures import DeepPictures, SlicePicture, StudyPictures

NUMBERS = ("score", "attention", "probability", "lung_fraction")


def highest(run: Run, networks: list[str]) -> list[str]:
    """The keys of all studies, the highest score of any network first; of equal scores the lower key."""
    scores = run.studies[networks].max(axis=1)
    ranked: list[str] = run.studies.loc[scores.sort_values(ascending=False, kind="stable").index, "study_key"].tolist()
    return ranked


def keep_highest(folder: Path) -> None:
    """Leave the full greys of the run's `images_top` highest studies: each rank kept its own."""
    described = read_described(folder)
    networks = [network.column for network in described.networks]
    keep_deep(folder, set(highest(open_run(folder), networks)[: described.config.run.images_top]))


def write_pictures(folder: Path, run: Run, networks: list[str], records: dict[str, LastRecord], most: int) -> set[str]:
    """images-KEY.js of the `most` highest-scoring studies that have pictures, deep-KEY.js where all greys are; their keys."""
    inputs = {key: record.input for key, record in records.items() if key}
    found = find_pictures(run.folder, inputs)
    chosen = [key for key in highest(run, networks) if key in found][:most]
    if chosen:
        with run.results as results:
            details = Details(results, len(networks))
            for key in chosen:
                deep = read_deep(run.folder, key, inputs[key])
                value = pictures_value(read_pictures(found[key]), details.of(key)) | {"deep": deep is not None}
                put(folder / f"images-{key}.js", f"images-{key}", value)
                if deep:
                    put(folder / f"deep-{key}.js", f"deep-{key}", deep_value(deep))
    return set(chosen)


class Details:
    """The details of results.h5, found by study in an open file's columns: those of studies and slices ascend."""

    def __init__(self, results: Any, n_networks: int) -> None:
        self._results = results
        self._n_networks = n_networks

    def of(self, key: str) -> dict[int, list[list[dict[str, Any]]]]:
        """Slice index -> [network][detail] of one study."""
        row = bisect_left(self._results["studies/study_key"], key.encode())
        first = int(self._results["studies/first_slice"][row])
        last = first + int(self._results["studies/n_slices_scored"][row])
        slice_of_detail = self._results["details/slice"]
        start = bisect_left(slice_of_detail, first)
        end = bisect_left(slice_of_detail, last)
        read = {name: self._results[f"details/{name}"][start:end] for name in ("network", "box", "box_original", *NUMBERS)}
        indexes = self._results["slices/slice_index"][first:last].tolist()
        found: dict[int, list[list[dict[str, Any]]]] = {index: [[] for _ in range(self._n_networks)] for index in indexes}
        for row, of_slice in enumerate(slice_of_detail[start:end] - first):
            numbers = {name: round(float(read[name][row]), 4) for name in NUMBERS}
            boxes = {"box": read["box"][row].tolist(), "original": read["box_original"][row].round(2).tolist()}
            found[indexes[of_slice]][read["network"][row]].append({**boxes, **numbers})
        return found


def pictures_value(pictures: StudyPictures, details: dict[int, list[list[dict[str, Any]]]]) -> dict[str, Any]:
    """What a panel draws of one study; `details` is slice index -> [network][detail]."""
    value: dict[str, Any] = msgspec.to_builtins(pictures)
    slices = [_slice(one, pictures.image_px, details.get(one.index, [])) for one in pictures.slices]
    return {name: value[name] for name in ("size", "image_px", "spacing_mm", "window", "coronal")} | {"slices": slices}


def deep_value(deep: DeepPictures) -> dict[str, Any]:
    """The full greys of one study as a panel unpacks them."""
    value: dict[str, Any] = msgspec.to_builtins(deep, str_keys=True)
    return {name: value[name] for name in ("size", "step", "slices")}


def details_of(result: StudyResult) -> dict[int, list[list[dict[str, Any]]]]:
    """The same as `Details.of`, of a study that stands in no run's tables."""
    return {one.slice_index: [[_detail(detail) for detail in of.details] for of in one.predictions] for one in result.slices}


def _detail(detail: Detail) -> dict[str, Any]:
    numbers = {name: round(float(getattr(detail, name)), 4) for name in NUMBERS}
    box, original = ([round(edge, 2) for edge in astuple(one)] for one in (detail.box, detail.original))
    return {"box": box, "original": original, **numbers}


def _slice(one: SlicePicture, image_px: int, details: list[list[dict[str, Any]]]) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(one)
    if one.crop is not None:
        value["details"] = [[{**each, "shown": _shown(each["box"], one.crop, image_px)} for each in of] for of in details]
    return value


def _shown(edges: list[float], crop: Box, image_px: int) -> list[float]:
    """A box of the network's picture in the volume's picture: top, left, bottom, right."""
    box = to_original(Box(*edges), crop, image_px, IDENTITY_AFFINE)
    return [round(edge, 2) for edge in (box.top, box.left, box.bottom, box.right)]
