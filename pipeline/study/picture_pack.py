"""The few studies whose pictures are kept at screening: those that score highest, and those flagged; a pack a rank and attempt.

A pack's line has the form of a journal's (JSON, TAB, CRC-32); a torn line is passed over, the last of a study counts. A study
among the run's `images_top` highest is among its own rank's highest when its turn comes, so it is always kept. What the
networks say is not repeated here: it is in results.h5. Nothing here reaches a table or the payload's digest.

Beside the packs lies a file of its own for each study that stands among its rank's highest, with every grey of its slices
(`DeepPictures`): a study that another has pushed down loses it, and at the end of a run only the run's highest have theirs.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.config import RunConfig, WindowConfig
from pipeline.files import storage_error, write_whole
from pipeline.records import Box, PreparedStudy, StudyResult, Volume
from pipeline.study.slices import to_grey

ORIGINAL_PX, SEEN_PX = 384, 320
QUALITIES = (80, 60, 40, 15)
"""Of JPEG: WebP is half as large at fifty times the time."""
MAX_BYTES = 600_000
"""Most that the pictures of one study may take; coarser ones are made where finer ones do not fit."""
DEEP_PX = 512
MAX_DEEP_BYTES = 6_000_000
"""Most that the full greys of one study may take in its file."""
COARSER = ((1, DEEP_PX), (2, DEEP_PX), (4, DEEP_PX), (8, DEEP_PX), (8, 256), (16, 128))
"""(step of grey in HU, longest side): the first that fits is taken."""
CORONAL_PX = 256
Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Without = Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True, slots=True)
class SlicePicture:
    """One slice read: the original as JPEG and its lung's outline in volume pixels; `seen` is what the network saw, if it did.

    Outlines are polygons in SVG's form, "x,y x,y"; `crop` is the part of the volume's picture that the network saw. `without`
    [network][look] is the slice's probability with one look's features left out: six details, the slice, the second look.
    """

    index: int
    z_mm: float
    original: bytes
    lung: list[str]
    seen: bytes | None = None
    seen_lung: list[str] = field(default_factory=list)
    crop: Box | None = None
    without: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Window:
    """Which HU are shown between black and white."""

    level: float
    width: float


@dataclass(frozen=True, slots=True)
class Coronal:
    """The patient from the front as WebP, put together from the slices that were read; its edges and width in mm."""

    image: bytes
    z_top: float
    z_bottom: float
    width_mm: float


@dataclass(frozen=True, slots=True)
class StudyPictures:
    """The pictures of one study; `size` is rows and columns of the volume, `input` the digest of the study's manifest entry.

    `spacing_mm` (rows, columns) is None where nobody knows size and sides: in exported pictures. `window` is what the network
    saw. Packs of earlier versions have none of the three last.
    """

    study_key: str
    input: str
    size: tuple[int, int]
    image_px: int
    slices: list[SlicePicture]
    spacing_mm: tuple[float, float] | None = None
    window: Window | None = None
    coronal: Coronal | None = None


@dataclass(frozen=True, slots=True)
class DeepPictures:
    """Every slice read in `size` (rows, columns) and greys of `step` HU, [slice index] -> `pack_slice`."""

    study_key: str
    input: str
    size: tuple[int, int]
    step: int
    slices: dict[int, bytes]


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
        self._top: list[tuple[float, str]] = []
        self._n_bytes = 0

    def wants(self, result: StudyResult) -> bool:
        """Whether the pictures of this study are to be kept."""
        score = max(result.probabilities, default=-1.0)
        if score < 0 or not self._config.images_top:
            return False
        if self._enters(score, result.study_key):
            return True
        return score >= self._config.images_flag_at and self._n_bytes < self._config.images_mb * 1e6

    def _enters(self, score: float, key: str) -> bool:
        """Whether it is among the highest so far; one that it pushes down loses its full greys."""
        if len(self._top) < self._config.images_top:
            heapq.heappush(self._top, (score, key))
            return True
        if score <= self._top[0][0]:
            return False
        _, lost = heapq.heapreplace(self._top, (score, key))
        with suppress(OSError):  # at the end of the run it is taken away in any case
            deep_path(self._path.parent, lost).unlink(missing_ok=True)
        return True

    def is_top(self, key: str) -> bool:
        """Whether the study is among the highest so far."""
        return any(key == held for _, held in self._top)

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

    def add_deep(self, pictures: DeepPictures) -> None:
        """Write the full greys of one study, whole or not at all."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(deep_path(self._path.parent, pictures.study_key), msgspec.json.encode(pictures))
        except OSError as error:
            raise storage_error(error, self._path) from error


def study_pictures(  # noqa: PLR0913  all that one study's pictures show
    key: str, input_: str, volume: Volume, masks: Mask, prepared: PreparedStudy, window: WindowConfig,
    *, without: Without = (),
) -> StudyPictures | None:  # fmt: skip
    """The pictures of one study within MAX_BYTES; None where no quality fits (hundreds of slices were read).

    `without` [kept slice][network][look] is what `Engine.without_each` says.
    """
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
                    without=[] if kept is None or not without else [list(of) for of in without[kept]],
                )
            )
        if sum(len(one.original) + len(one.seen or b"") for one in slices) <= MAX_BYTES:
            size = (int(grey.shape[1]), int(grey.shape[2]))
            is_measured = not volume.masks
            return StudyPictures(
                key,
                input_,
                size,
                int(prepared.images.shape[1]),
                slices,
                spacing_mm=volume.spacing_mm if is_measured else None,
                window=_shown(window),
                coronal=coronal(volume, masks, window) if is_measured else None,
            )
    return None


def _shown(window: WindowConfig) -> Window:
    return Window(-617.5, 765.0) if window.kind == "jpeg" else Window(window.level_hu, window.width_hu)


def coronal(volume: Volume, masks: Mask, window: WindowConfig) -> Coronal | None:
    """The plane with most lung in it, from the front, straight between the slices read; None of fewer than two heights."""
    z = volume.z_mm
    if len(z) < 2 or z[-1] <= z[0]:
        return None
    plane = volume.hu[:, int(masks.sum(axis=(0, 2)).argmax())].astype(np.float64)
    width_mm = plane.shape[1] * volume.spacing_mm[1]
    height_px = max(1, round(CORONAL_PX * float(z[-1] - z[0]) / width_mm))
    heights = z[-1] - (np.arange(height_px) + 0.5) * float(z[-1] - z[0]) / height_px
    above = np.clip(np.searchsorted(z, heights), 1, len(z) - 1)
    share = ((heights - z[above - 1]) / (z[above] - z[above - 1]))[:, None]
    front = to_grey(np.rint(plane[above - 1] * (1 - share) + plane[above] * share).astype(np.int16), window)
    small = cv2.resize(front, (CORONAL_PX, height_px), interpolation=cv2.INTER_AREA)
    return Coronal(_jpeg(small, max(small.shape), QUALITIES[0]), float(z[-1]), float(z[0]), width_mm)


def deep_pictures(key: str, input_: str, volume: Volume) -> DeepPictures | None:
    """Every grey of every slice within MAX_DEEP_BYTES, coarser where that is too little; None where nothing fits."""
    for step, longest_px in COARSER:
        slices: dict[int, bytes] = {}
        n_bytes = 0
        for index, hu in zip(volume.slice_index.tolist(), volume.hu, strict=True):
            small = _smaller(hu, longest_px)
            slices[index] = pack_slice(small, step)
            n_bytes += -(-len(slices[index]) // 3) * 4  # as base64
            if n_bytes > MAX_DEEP_BYTES:
                break
        else:
            return DeepPictures(key, input_, (int(small.shape[0]), int(small.shape[1])), step, slices)
    return None


def pack_slice(hu: npt.NDArray[np.int16], step: int) -> bytes:
    """A slice's greys in steps of `step` HU from -1024: differences from what three neighbours foretell, in zlib.

    The differences are of JPEG-LS's median predictor, folded (0, -1, 1, -2 become 0, 1, 2, 3) into 16 bits; all low bytes stand
    before all high ones. What lies outside the picture counts as 0.
    """
    grey = (hu.astype(np.int32) + 1024 + step // 2) // step
    left, above, corner = (np.zeros_like(grey) for _ in range(3))
    left[:, 1:], above[1:], corner[1:, 1:] = grey[:, :-1], grey[:-1], grey[:-1, :-1]
    low, high = np.minimum(left, above), np.maximum(left, above)
    foretold = np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))
    difference = grey - foretold
    folded = np.where(difference < 0, -2 * difference - 1, 2 * difference).astype(np.uint16)
    return zlib.compress((folded & 255).astype(np.uint8).tobytes() + (folded >> 8).astype(np.uint8).tobytes(), 6)


def _smaller(hu: npt.NDArray[np.int16], longest_px: int) -> npt.NDArray[np.int16]:
    height, width = hu.shape
    if max(height, width) <= longest_px:
        return hu
    scale = longest_px / max(height, width)
    small = cv2.resize(hu, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.int16)


def deep_path(images: Path, key: str) -> Path:
    """Where the full greys of a study lie."""
    return images / f"{key}.deep"


def read_deep(run: Path, key: str, input_: str) -> DeepPictures | None:
    """The full greys of a study, where there are some that were made of its present input."""
    try:
        pictures = msgspec.json.decode(deep_path(run / "images", key).read_bytes(), type=DeepPictures)
    except FileNotFoundError:
        return None
    return pictures if pictures.input == input_ else None


def keep_deep(run: Path, keys: Collection[str]) -> None:
    """Leave the full greys of these studies only."""
    for path in (run / "images").glob("*.deep"):
        if path.stem not in keys:
            path.unlink(missing_ok=True)


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
