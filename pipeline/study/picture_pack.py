"""The few studies whose pictures are kept at screening: those that score highest, and those flagged; a pack a rank and attempt.

A pack's line has the form of a journal's (JSON, TAB, CRC-32); a torn line is passed over, the last of a study counts. A study
among the run's `images_top` highest is among its own rank's highest when its turn comes, so it is always kept. What the
networks say is not repeated here: it is in results.h5. Nothing here reaches a table or the payload's digest.
"""

from __future__ import annotations

import heapq
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.config import RunConfig, WindowConfig
from pipeline.files import storage_error
from pipeline.records import Box, PreparedStudy, StudyResult, Volume
from pipeline.study.slices import to_grey

ORIGINAL_PX, SEEN_PX = 384, 320
QUALITIES = (80, 60, 40, 15)
"""Of JPEG: WebP is half as large at fifty times the time."""
MAX_BYTES = 600_000
"""Most that the pictures of one study may take; coarser ones are made where finer ones do not fit."""
Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SlicePicture:
    """One slice read: the original as JPEG and its lung's outline in volume pixels; `seen` is what the network saw, if it did.

    Outlines are polygons in SVG's form, "x,y x,y"; `crop` is the part of the volume's picture that the network saw.
    """

    index: int
    z_mm: float
    original: bytes
    lung: list[str]
    seen: bytes | None = None
    seen_lung: list[str] = field(default_factory=list)
    crop: Box | None = None


@dataclass(frozen=True, slots=True)
class StudyPictures:
    """The pictures of one study; `size` is rows and columns of the volume, `input` the digest of the study's manifest entry."""

    study_key: str
    input: str
    size: tuple[int, int]
    image_px: int
    slices: list[SlicePicture]


@dataclass(frozen=True, slots=True)
class PackPlace:
    """Where a study's line begins."""

    path: Path
    offset: int


class _Head(msgspec.Struct):
    study_key: str
    input: str


class Album:
    """One rank's pack, opened when the first study is kept. Raises StorageError as the journal does."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self._path, self._config = path, config
        self._top: list[float] = []
        self._n_bytes = 0

    def wants(self, result: StudyResult) -> bool:
        """Whether the pictures of this study are to be kept."""
        score = max(result.probabilities, default=-1.0)
        if score < 0 or not self._config.images_top:
            return False
        if len(self._top) < self._config.images_top:
            heapq.heappush(self._top, score)
            return True
        if heapq.heappushpop(self._top, score) != score:
            return True
        return score >= self._config.images_flag_at and self._n_bytes < self._config.images_mb * 1e6

    def add(self, pictures: StudyPictures) -> None:
        """Append one study's pictures."""
        text = msgspec.json.encode(pictures)
        line = b"%s\t%08x\n" % (text, zlib.crc32(text))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(line)
        except OSError as error:
            raise storage_error(error, self._path) from error
        self._n_bytes += len(line)


def study_pictures(
    key: str, input_: str, volume: Volume, masks: Mask, prepared: PreparedStudy, window: WindowConfig
) -> StudyPictures | None:  # fmt: skip
    """The pictures of one study within MAX_BYTES; None where no quality fits (hundreds of slices were read)."""
    grey = to_grey(volume.hu, window)
    row_of = {int(index): row for row, index in enumerate(prepared.slice_index)}
    for quality in QUALITIES:
        slices = []
        for row, index in enumerate(volume.slice_index.tolist()):
            kept = row_of.get(index)
            seen = None if kept is None else prepared.images[kept]
            slices.append(
                SlicePicture(
                    index=index,
                    z_mm=round(float(volume.z_mm[row]), 2),
                    original=_jpeg(grey[row], ORIGINAL_PX, quality),
                    lung=outlines(masks[row]),
                    seen=None if seen is None else _jpeg(seen, SEEN_PX, quality),
                    seen_lung=[] if kept is None else outlines(prepared.lung[kept]),
                    crop=None if kept is None else prepared.crops[kept],
                )
            )
        if sum(len(one.original) + len(one.seen or b"") for one in slices) <= MAX_BYTES:
            size = (int(grey.shape[1]), int(grey.shape[2]))
            return StudyPictures(key, input_, size, int(prepared.images.shape[1]), slices)
    return None


def find_pictures(run: Path, inputs: dict[str, str]) -> dict[str, PackPlace]:
    """Where the last pictures of each study lie that were made of its present input (`inputs`: study key -> digest)."""
    head = msgspec.json.Decoder(_Head)
    places: dict[str, PackPlace] = {}
    for path in sorted((run / "images").glob("*.pack")):
        offset = 0
        with path.open("rb") as file:
            for line in file:
                text = _sound(line)
                one = head.decode(text) if text else None
                if one and inputs.get(one.study_key) == one.input:
                    places[one.study_key] = PackPlace(path, offset)
                offset += len(line)
    return places


def read_pictures(place: PackPlace) -> StudyPictures:
    """The pictures at `place`."""
    with place.path.open("rb") as file:
        file.seek(place.offset)
        return msgspec.json.decode(file.readline().rpartition(b"\t")[0], type=StudyPictures)


def _sound(line: bytes) -> bytes | None:
    """The JSON of one line, or None where it is torn or damaged."""
    text, _, crc = line.rstrip(b"\n").rpartition(b"\t")
    return text if line.endswith(b"\n") and crc == b"%08x" % zlib.crc32(text) else None


def outlines(mask: Mask) -> list[str]:
    """The outlines of a mask, to half a pixel or so."""
    found, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    shapes: list[Any] = [cv2.approxPolyDP(shape, 0.8, True)[:, 0] for shape in found]
    return [" ".join(f"{x},{y}" for x, y in shape.tolist()) for shape in shapes if len(shape) > 2]


def _jpeg(picture: Grey, longest_px: int, quality: int) -> bytes:
    height, width = picture.shape
    scale = min(1.0, longest_px / max(height, width))
    way = cv2.INTER_LINEAR if scale > 0.5 else cv2.INTER_AREA  # the mean over areas takes ten times as long
    small = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=way)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)
