"""Chosen slices of one series -> HU, oriented, with square pixels. Nothing else of the series is read."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.archive.decode import DEFLATED, NATIVE, Decoder
from pipeline.archive.headers import native
from pipeline.errors import Reason, StudyError
from pipeline.records import Affine, Series, SliceSource, Volume

Hu = npt.NDArray[np.int16]
LOWEST_HU, HIGHEST_HU = -1024, 3071
PLAUSIBLE_P999_HU = 4200.0
"""Metal saturates at 3071; unsigned values read as signed ones, or the reverse, lie far above."""


def read_volume(root: Path, series: Series, wanted: Sequence[int], decoder: Decoder) -> Volume:
    """The slices at places `wanted` of `series`. Raises StudyError with its reason."""
    raw = [_read_slice(root, series.slices[place], series.kind, decoder) for place in wanted]
    if series.kind == "dicom":
        _check_plausible(raw)
    oriented = np.stack([orient(image, series.original_affine) for image in raw])
    hu = np.clip(np.rint(oriented), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    affine, spacing = series.original_affine, series.spacing_mm
    if abs(spacing[0] - spacing[1]) > 0.01 * min(spacing):
        hu, spacing, affine = _squared(hu, spacing, affine)
    return Volume(
        hu=hu,
        z_mm=np.array([series.slices[place].z_mm for place in wanted]),
        slice_index=np.array(wanted, np.int32),
        spacing_mm=spacing,
        original_affine=affine,
        n_series=len(series.slices),
    )


def _read_slice(root: Path, source: SliceSource, kind: str, decoder: Decoder) -> npt.NDArray[np.float64]:
    data = _read_bytes(root / native(source.path), source)
    if kind == "image":
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if grey is None:
            raise StudyError(Reason.DECODE_ERROR, "decode")
        return np.asarray(grey * 3.0 - 1000.0)  # the published mapping of exported slices
    stored = decoder.decode(data, source)
    hu = stored * source.slope + source.intercept
    if source.padding is not None:
        limit = source.padding if source.padding_limit is None else source.padding_limit
        low, high = sorted((source.padding, limit))
        hu[(stored >= low) & (stored <= high)] = LOWEST_HU
    return np.asarray(hu, np.float64)


def _read_bytes(path: Path, source: SliceSource) -> bytes:
    """The frame's bytes; for images the whole file."""
    try:
        with path.open("rb") as file:
            file.seek(source.offset)
            data = file.read(source.length or -1)
    except FileNotFoundError as error:
        raise StudyError(Reason.FILE_VANISHED, "decode") from error
    except PermissionError as error:
        raise StudyError(Reason.PERMISSION_DENIED, "decode") from error
    except OSError as error:
        raise StudyError(Reason.IO_ERROR, "decode") from error
    if source.syntax == DEFLATED:
        return _inflated(data, source)
    return data if source.syntax in NATIVE else _frame(data)


def _inflated(data: bytes, source: SliceSource) -> bytes:
    """The pixels of a deflated file: they close the data set (`frame` holds their offset in it)."""
    wanted = source.frame + source.rows * source.columns * source.bits_allocated // 8
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, wanted)[source.frame :]
    except zlib.error as error:
        raise StudyError(Reason.DECODE_ERROR, "decode") from error


def _frame(data: bytes) -> bytes:
    """The one frame of encapsulated pixel data, its fragments joined."""
    if data[:4] != b"\xfe\xff\x00\xe0":
        return data
    place, parts = 8 + int.from_bytes(data[4:8], "little"), []
    while data[place : place + 4] == b"\xfe\xff\x00\xe0":
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        part = data[place + 8 : place + 8 + length]
        if len(part) < length:
            raise StudyError(Reason.TRUNCATED_PIXEL_DATA, "decode")
        parts.append(part)
        place += 8 + length
    if not parts:
        raise StudyError(Reason.TRUNCATED_PIXEL_DATA, "decode")
    return b"".join(parts)


def _check_plausible(raw: list[npt.NDArray[np.float64]]) -> None:
    """Finite, with air somewhere, and nothing far above metal."""
    sample = np.concatenate([image[::4, ::4].ravel() for image in raw])
    if not np.isfinite(sample).all() or sample.min() > -500 or np.percentile(sample, 99.9) > PLAUSIBLE_P999_HU:
        raise StudyError(Reason.PIXELS_IMPLAUSIBLE, "volume")


def orient(image: npt.NDArray[np.float64], affine: Affine) -> npt.NDArray[np.float64]:
    """A stored image in volume orientation; `affine` maps volume edges to stored ones."""
    a, b, _, d, e, _ = affine
    turned = image.T if a == 0 else image
    across, down = (b, d) if a == 0 else (e, a)
    turned = turned[:, ::-1] if across < 0 else turned
    return turned[::-1] if down < 0 else turned


def _squared(hu: Hu, spacing: tuple[float, float], affine: Affine) -> tuple[Hu, tuple[float, float], Affine]:
    """Resample to square pixels of the finer spacing, and keep the way back."""
    fine = min(spacing)
    rows, columns = (round(n * mm / fine) for n, mm in zip(hu.shape[1:], spacing, strict=True))
    resized = np.stack([cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR) for image in hu])
    back_y, back_x = hu.shape[1] / rows, hu.shape[2] / columns
    a, b, c, d, e, f = affine
    return resized, (fine, fine), (a * back_y, b * back_x, c, d * back_y, e * back_x, f)
