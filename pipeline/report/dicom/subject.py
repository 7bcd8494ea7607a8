"""What the DICOM outputs of one study are made from: its results, its original headers, its lungs in the stored matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pydicom

from pipeline.archive import Decoder, every_slice, read_volume
from pipeline.archive.originals import read_originals
from pipeline.config import Config, WindowConfig
from pipeline.errors import Reason, StudyError
from pipeline.records import MIN_LUNG_FRACTION, Affine, Detail, ScoredSlice, Series, StudyResult, Volume
from pipeline.study.lungs import lung_masks
from pipeline.study.slices import to_grey

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What the objects say of the algorithm; `number` is its place among the run's networks."""

    number: int
    column: str
    sha256: str
    positive: str
    version: str


@dataclass(frozen=True, slots=True)
class Subject:
    """One scored study; `originals` are the headers of the slices read, `slices` of those scored by their place among them.

    `grey` uint8 and `lungs` bool are [slice, row, column] of the stored images.
    """

    result: StudyResult
    network: Algorithm
    originals: list[pydicom.Dataset]
    slices: dict[int, ScoredSlice]
    grey: npt.NDArray[np.uint8]
    lungs: npt.NDArray[np.bool_]

    def shown(self, place: int, from_: float) -> list[tuple[int, Detail]]:
        """(number, detail) of the details of one slice that are findings: scored above `from_`, and not of the fill."""
        details = self.slices[place].predictions[self.network.number].details
        return [
            (n, one) for n, one in enumerate(details, 1) if one.probability > from_ and one.lung_fraction >= MIN_LUNG_FRACTION
        ]

    def top(self, count: int) -> list[int]:
        """The places of the slices that score highest, the highest first."""
        number = self.network.number
        return sorted(self.slices, key=lambda place: -self.slices[place].predictions[number].probability)[:count]


def read_subject(root: Path, result: StudyResult, series: Series, network: Algorithm, config: Config) -> Subject:
    """What to make the objects of `result` from; StudyError where its slices are no single-frame CT images."""
    if series.kind != "dicom":
        raise StudyError(Reason.NOT_DICOM, "write")
    series = _with_scored(series, {one.slice_index for one in result.slices})
    originals = read_originals(root, series.slices)
    if any(str(data.get("SOPClassUID")) != CT_IMAGE for data in originals):
        raise StudyError(Reason.PIXEL_FORMAT, "write")
    with Decoder() as decoder:
        volume = read_volume(root, series, range(len(series.slices)), decoder)
    lung, keep_fraction = config.lung, config.slices.keep_fraction
    masks = lung_masks(volume.hu, volume.z_mm, volume.spacing_mm, lung.recipe, lung.judge, keep_fraction)
    place_of = {int(index): place for place, index in enumerate(volume.slice_index)}
    return Subject(
        result=result,
        network=network,
        originals=originals,
        slices={place_of[one.slice_index]: one for one in result.slices},
        grey=_stored(to_grey(volume.hu, WindowConfig()), volume, originals, cv2.INTER_LINEAR),
        lungs=_stored(masks.astype(np.uint8), volume, originals, cv2.INTER_NEAREST) > 0,
    )


def _with_scored(series: Series, scored: set[int]) -> Series:
    """The series with the slices that the manifest has chosen, or with those scored where others were chosen in their stead."""
    if scored <= {source.place for source in series.slices}:
        return series
    return replace(series, slices=tuple(source for source in every_slice(series) if source.place in scored))


def _stored(pictures: npt.NDArray[np.uint8], volume: Volume, originals: list[pydicom.Dataset], how: int) -> Any:
    shape = int(originals[0].Rows), int(originals[0].Columns)
    return np.stack([to_stored(picture, volume.original_affine, shape, how) for picture in pictures])


def to_stored(picture: npt.NDArray[np.uint8], affine: Affine, shape: tuple[int, int], how: int = cv2.INTER_NEAREST) -> Any:
    """A picture of the volume in the stored image's matrix; `affine` maps pixel edges, warpAffine pixel centres."""
    a, b, c, d, e, f = affine
    moved = np.array([[e, d, (d + e - 1) / 2 + f], [b, a, (a + b - 1) / 2 + c]])
    return cv2.warpAffine(picture, moved, (shape[1], shape[0]), flags=how, borderMode=cv2.BORDER_REPLICATE)
