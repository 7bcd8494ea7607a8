"""One labelled picture a study: the slices in the lung window with the mask's outline, and below what the network saw."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.config import WindowConfig
from pipeline.preprocess import to_grey
from pipeline.records import PreparedStudy, Volume
from pipeline.store import write_whole

TILE, COLUMNS = 256, 5
YELLOW, WHITE = (0, 220, 255), (255, 255, 255)
Picture = npt.NDArray[np.uint8]


def contact_sheet(volume: Volume, masks: npt.NDArray[np.bool_], prepared: PreparedStudy) -> Picture:
    """Tiles [H, W, 3]: every slice read, then every slice kept as the network sees it."""
    kept = set(prepared.slice_index.tolist())
    grey = to_grey(volume.hu, WindowConfig())
    tiles = []
    for picture, mask, number, z in zip(grey, masks, volume.slice_index.tolist(), volume.z_mm.tolist(), strict=True):
        said = f"{number} z {z:.0f} mm {'kept' if number in kept else 'left out'}"
        tiles.append(_tile(_outlined(picture, mask), said))
    for picture, number in zip(prepared.images, prepared.slice_index.tolist(), strict=True):
        tiles.append(_tile(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR), f"{number} as the network sees it"))
    tiles += [np.zeros((TILE, TILE, 3), np.uint8)] * (-len(tiles) % COLUMNS)
    return np.vstack([np.hstack(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)])


def write_contact_sheet(path: Path, volume: Volume, masks: npt.NDArray[np.bool_], prepared: PreparedStudy) -> None:
    """Write the sheet as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", contact_sheet(volume, masks, prepared))
    write_whole(path, data.tobytes())


def _outlined(picture: Picture, mask: npt.NDArray[np.bool_]) -> Picture:
    coloured = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(coloured, outline, -1, YELLOW, max(1, picture.shape[0] // 256))
    return np.asarray(coloured, np.uint8)


def _tile(picture: Picture, said: str) -> Picture:
    tile = cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_AREA)
    cv2.rectangle(tile, (0, 0), (TILE, 18), (0, 0, 0), -1)
    cv2.putText(tile, said, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, WHITE, 1, cv2.LINE_AA)
    return np.asarray(tile, np.uint8)
