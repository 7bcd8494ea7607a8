"""Exported pictures of one patient -> a volume: each by its own greys, all in the size of the first, the feet first.

Pictures above LARGEST_PX are read smaller: networks see a third of them. One whose greys mean nothing is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.archive.allowance import Allowance
from pipeline.archive.decode import Decoder
from pipeline.archive.greys import AIR_HU, Floats, Grey, content, own_tables, table_of
from pipeline.archive.padding import Mask, beyond_field
from pipeline.archive.reading import read_frames
from pipeline.archive.scan import MAX_PICTURE
from pipeline.archive.stored import Words
from pipeline.archive.walk import native, open_regular
from pipeline.errors import Reason, StudyError
from pipeline.records import Event, Series, SliceSource, Volume

LOWEST_HU, HIGHEST_HU = -1024, 3071
LARGEST_PX = 1024
AROUND_MARK = 5
"""Pixels: compression smears the colour of a mark."""
LOOK_PX = 128
BODY_HU, LUNG_HU = -300, -450
LEAST_LUNG, LEAST_TREND = 0.02, 0.3
"""Share of a picture from which on its lungs tell where it lies, and the correlation from which on they tell the order."""

Hu = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture as HU [R, C], and where it came from."""

    hu: Hu
    source: SliceSource


def read_pictures(root: Path, series: Series, wanted: Sequence[int], decoder: Decoder, like: Volume | None = None) -> Volume:
    """The pictures at places `wanted` of `series`, turned as those of `like` are.

    Raises StudyError, GREY_UNKNOWN where no picture can be used.
    """
    sources = [series.slices[place] for place in wanted]
    scale = min(1.0, LARGEST_PX / max(sources[0].rows, sources[0].columns))
    shape = like.hu.shape[1:] if like else (round(sources[0].rows * scale), round(sources[0].columns * scale))
    pictures = _usable(read_frames(root, sources, decoder.tick), sources, shape, decoder)
    if not pictures and like is None:
        raise StudyError(Reason.GREY_UNKNOWN, "volume")
    n_lost, last = len(sources) - len(pictures), max(series.facts.n_slices, 1) - 1
    z_mm, places = [picture.source.z_mm for picture in pictures], [picture.source.place for picture in pictures]
    turned = like.turned if like else from_head([picture.hu for picture in pictures])
    if turned and pictures:
        step_mm = z_mm[-1] / places[-1] if places[-1] else series.slices[-1].z_mm / max(last, 1)
        pictures, places = pictures[::-1], [last - place for place in places[::-1]]
        z_mm = [place * step_mm for place in places]
    return Volume(
        hu=np.array([picture.hu for picture in pictures], np.int16).reshape(-1, *shape),
        z_mm=np.array(z_mm),
        slice_index=np.array(places, np.int32),
        spacing_mm=(series.spacing_mm[0] / scale, series.spacing_mm[1] / scale),
        original_affine=(1 / scale, 0.0, 0.0, 0.0, 1 / scale, 0.0),
        n_series=last + 1,
        events=(Event("series", "volume", Reason.GREY_UNKNOWN, n_lost),) if n_lost else (),
        masks=tuple(picture.source.mask for picture in pictures),
        turned=turned,
    )


def _usable(frames: Sequence[bytes], sources: Sequence[SliceSource], shape: tuple[int, int], decoder: Decoder) -> list[Picture]:
    found = pictures_hu((decoder.decode_picture(frame) for frame in frames), sources, shape)
    return [Picture(hu, source) for hu, source in zip(found, sources, strict=True) if hu is not None]


def pictures_hu(stored: Iterable[Words], sources: Sequence[SliceSource], shape: tuple[int, int]) -> list[Hu | None]:
    """A patient's pictures in `shape`, by their greys or the configuration's window; None where greys mean nothing.

    Of `stored` only one is held at a time. The window of the configuration is in `SliceSource.slope` and `intercept`.
    """
    pictures = [sized(_unmarked(each), shape) for each in stored]
    given = [table_of(each.intercept, each.intercept + 255 * each.slope) for each in sources if each.slope]
    tables = given or own_tables(pictures)
    beyond = beyond_field(pictures)
    return [None if table is None else _in_hu(grey, table, beyond) for grey, table in zip(pictures, tables, strict=True)]


def _in_hu(grey: Grey, table: Floats, beyond: Mask | None) -> Hu:
    """What is no anatomy is air."""
    inside = content(grey)
    hu = np.full(grey.shape, round(AIR_HU), np.int16)
    hu[inside] = np.clip(np.rint(table), LOWEST_HU, HIGHEST_HU).astype(np.int16)[grey[inside]]
    if beyond is not None:
        hu[beyond] = round(AIR_HU)
    return hu


def _unmarked(stored: Words) -> Grey:
    """The picture's greys; coloured marks are covered with what is around them."""
    grey = np.where(stored < 0, -1 - stored, stored).astype(np.uint8)
    marks = (stored < 0).astype(np.uint8)
    if not marks.any():
        return grey
    return np.asarray(cv2.inpaint(grey, cv2.dilate(marks, np.ones((AROUND_MARK,) * 2, np.uint8)), 3, cv2.INPAINT_TELEA))


def sized(grey: Grey, shape: tuple[int, int]) -> Grey:
    """Pictures of one patient may differ in size; a volume cannot."""
    if grey.shape == shape:
        return grey
    return np.asarray(cv2.resize(grey, (shape[1], shape[0]), interpolation=cv2.INTER_AREA), np.uint8)


def read_mask(root: Path, path: str, shape: tuple[int, int], decoder: Decoder) -> Mask:
    """The given lung mask of a picture: what is lighter than half of its lightest."""
    with Allowance().parsing(Reason.DECODE_ERROR, "decode"), open_regular(root / native(path)) as stream:
        data = stream.read(MAX_PICTURE + 1)
    if len(data) > MAX_PICTURE:
        raise StudyError(Reason.DECOMPRESSION_BOMB, "decode")
    stored = decoder.decode_picture(data)
    values = sized(np.where(stored < 0, -1 - stored, stored).astype(np.uint8), shape)
    return np.asarray(values > values.max() / 2)


def from_head(pictures: Sequence[Hu]) -> bool:
    """Whether the first picture lies nearest to the head: towards the feet the lungs lie farther apart and farther back."""
    seen = [(float(place), *lie) for place, hu in enumerate(pictures) if (lie := lungs_lie(hu)) is not None]
    if len(seen) < 2:
        return False
    places, lies, areas = np.array(seen).T
    places, lies = (each - np.average(each, weights=areas) for each in (places, lies))
    return bool(areas * places @ lies > LEAST_TREND * np.sqrt((areas @ places**2) * (areas @ lies**2)))


def lungs_lie(hu: Hu) -> tuple[float, float] | None:
    """(how far aside and how far back the lungs lie in the body, in shares of its size; their area), None without lungs."""
    small = np.asarray(cv2.resize(hu, (LOOK_PX, LOOK_PX), interpolation=cv2.INTER_AREA))
    soft = cv2.morphologyEx((small > BODY_HU).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    outlines, _ = cv2.findContours(soft, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    large = [outline for outline in outlines if cv2.contourArea(outline) > LEAST_LUNG * LOOK_PX**2]
    if not large:
        return None
    body = cv2.fillConvexPoly(np.zeros_like(soft), cv2.convexHull(np.concatenate(large)), 1)
    y, x = np.nonzero(cv2.erode(body, np.ones((7, 7), np.uint8)) & (small < LUNG_HU))
    if len(y) < LEAST_LUNG * LOOK_PX**2:
        return None
    rows, columns = np.nonzero(body)
    aside = np.abs(x - columns.mean()).mean() / columns.std()
    return float(aside + (y.mean() - rows.mean()) / rows.std()), float(len(y))
