"""One labelled picture a study: every slice read, with its outline and why it was kept or not; then what the network saw."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.config import WindowConfig
from pipeline.files import write_whole
from pipeline.records import PreparedStudy, Volume
from pipeline.study.slices import to_grey

TILE = 320
COLUMNS = 5
LINE = 18
GAP = 4
YELLOW = (0, 220, 255)
WHITE = (255, 255, 255)
GREY = (150, 150, 150)
ORANGE = (60, 150, 255)
Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]


def contact_sheet(volume: Volume, masks: npt.NDArray[np.bool_], prepared: PreparedStudy) -> Picture:
    """Tiles [H, W, 3]: every slice read, from the lowest up, then every slice kept as the network sees it."""
    area_mm2 = masks.sum(axis=(1, 2)) * (volume.spacing_mm[0] * volume.spacing_mm[1])
    kept = set(prepared.slice_index.tolist())
    read = []
    for row, picture in enumerate(to_grey(volume.hu, WindowConfig())):
        number = int(volume.slice_index[row])
        is_kept = int(volume.slice_index[row]) in kept
        where = f"slice {number}  z {volume.z_mm[row]:.0f} mm"
        said = f"{'kept' if is_kept else 'left out'}: {_why(float(area_mm2[row]), float(area_mm2.max()))}"
        read.append(_tile(_outlined(picture, masks[row]), (where, said), WHITE if is_kept else ORANGE))
    seen = [
        _tile(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR), (f"slice {number}  as the network sees it", ""), WHITE)
        for picture, number in zip(prepared.images, prepared.slice_index.tolist(), strict=True)
    ]
    notes = ", ".join(sorted({str(event.code) for event in prepared.events}))
    told = f"{len(volume.hu)} slices read of {max(volume.n_series, len(volume.hu))}, {len(kept)} kept  {notes}"
    return np.vstack([_band(told), _grid(read), _band("cropped to the lung, the blank around it filled"), _grid(seen)])


def write_contact_sheet(path: Path, volume: Volume, masks: npt.NDArray[np.bool_], prepared: PreparedStudy) -> None:
    """Write the sheet as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", contact_sheet(volume, masks, prepared))
    write_whole(path, data.tobytes())


def _why(area_mm2: float, largest_mm2: float) -> str:
    if area_mm2 == 0:
        return "no lung"
    return f"lung {area_mm2 / 100:.0f} cm2, {area_mm2 / largest_mm2:.0%} of the largest"


def _outlined(picture: Picture, mask: npt.NDArray[np.bool_]) -> Picture:
    """The slice in colour at tile size, the outline one pixel wide whatever the matrix."""
    coloured = cv2.cvtColor(cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR)
    small = cv2.resize(mask.astype(np.uint8) * 255, (TILE, TILE), interpolation=cv2.INTER_AREA) > 127
    outline, _ = cv2.findContours(small.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(coloured, outline, -1, YELLOW, 1)
    return np.asarray(coloured, np.uint8)


def _tile(picture: Picture, said: tuple[str, str], colour: Colour) -> Picture:
    """A picture under its two lines of text, a dark gap around."""
    tile = np.zeros((TILE + 2 * LINE + GAP, TILE + GAP, 3), np.uint8)
    for number, text in enumerate(said):
        _write(tile, text, (2, LINE * (number + 1) - 5), colour)
    tile[2 * LINE : 2 * LINE + TILE, :TILE] = cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_AREA)
    return tile


def _grid(tiles: list[Picture]) -> Picture:
    tiles = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    return np.vstack([np.hstack(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)])


def _band(text: str) -> Picture:
    band = np.full((LINE + 2 * GAP, COLUMNS * (TILE + GAP), 3), 40, np.uint8)
    _write(band, text, (GAP, LINE), GREY)
    return band


def _write(picture: Picture, text: str, at: tuple[int, int], colour: Colour) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
