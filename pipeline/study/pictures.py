"""The pictures of one study: what was read and what the networks saw, small and as JPEG; and every grey of it, packed.

What the networks say is not repeated here: it is in results.h5. Nothing here reaches a table or the payload's digest.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.config import WindowConfig
from pipeline.records import Box, PreparedStudy, Volume
from pipeline.study.slices import to_grey

ORIGINAL_PX = 384
SEEN_PX = 320
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
    plane = volume.hu[:, int(_lung_in_rows(masks).argmax())].astype(np.float64)
    width_mm = plane.shape[1] * volume.spacing_mm[1]
    height_px = max(1, round(CORONAL_PX * float(z[-1] - z[0]) / width_mm))
    heights = z[-1] - (np.arange(height_px) + 0.5) * float(z[-1] - z[0]) / height_px
    above = np.clip(np.searchsorted(z, heights), 1, len(z) - 1)
    share = ((heights - z[above - 1]) / (z[above] - z[above - 1]))[:, None]
    front = to_grey(np.rint(plane[above - 1] * (1 - share) + plane[above] * share).astype(np.int16), window)
    small = cv2.resize(front, (CORONAL_PX, height_px), interpolation=cv2.INTER_AREA)
    return Coronal(_jpeg(small, max(small.shape), QUALITIES[0]), float(z[-1]), float(z[0]), width_mm)


def _lung_in_rows(masks: Mask) -> npt.NDArray[np.int32]:
    """[H]: lung pixels of all slices by row."""
    rows = [cv2.reduce(mask.view(np.uint8), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0] for mask in masks]
    return np.asarray(np.sum(rows, axis=0), np.int32)


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
    before all high ones. What lies outside the picture counts as 0. What is left is noise without repetitions: to look for runs
    alone takes a quarter of the time, and less room.
    """
    grey = hu + np.int16(1024 + step // 2)
    if step > 1:
        grey //= np.int16(step)
    left, above, corner = (np.zeros_like(grey) for _ in range(3))
    left[:, 1:], above[1:], corner[1:, 1:] = grey[:, :-1], grey[:-1], grey[:-1, :-1]
    low = np.minimum(left, above)
    high = np.maximum(left, above)
    foretold = np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))
    difference = grey - foretold
    folded = np.where(difference < 0, -2 * difference - 1, 2 * difference).astype(np.uint16)
    packer = zlib.compressobj(strategy=zlib.Z_RLE)
    low_bytes = packer.compress((folded & 255).astype(np.uint8).tobytes())
    return low_bytes + packer.compress((folded >> 8).astype(np.uint8).tobytes()) + packer.flush()


def _smaller(hu: npt.NDArray[np.int16], longest_px: int) -> npt.NDArray[np.int16]:
    height, width = hu.shape
    if max(height, width) <= longest_px:
        return hu
    scale = longest_px / max(height, width)
    small = cv2.resize(hu, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.int16)


def outlines(mask: Mask) -> list[str]:
    """The outlines of a mask, to half a pixel or so."""
    found, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    shapes: list[Any] = [cv2.approxPolyDP(shape, 0.8, True)[:, 0] for shape in found]
    return [" ".join(["%d,%d"] * len(shape)) % tuple(shape.ravel().tolist()) for shape in shapes if len(shape) > 2]


def _jpeg(picture: Grey, longest_px: int, quality: int) -> bytes:
    height, width = picture.shape
    scale = min(1.0, longest_px / max(height, width))
    way = cv2.INTER_LINEAR if scale > 0.5 else cv2.INTER_AREA  # the mean over areas takes ten times as long
    small = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=way)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)
