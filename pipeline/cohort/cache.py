"""Slices prepared once, as screening prepares them, and kept: one file a study, a row a slice, read slice by slice.

A row holds the 448 x 448 image, the 600 x 600 zoom source and the lung's bits. A file is named after the study, its manifest
entry, the settings of preparation and the code that prepares, so that none is ever read for another.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline.config import Config
from pipeline.errors import PipelineError, RankDied, Reason, StudyError
from pipeline.files import write_whole
from pipeline.mpi.world import Alone, World
from pipeline.records import Box, PreparedStudy, Study
from pipeline.run.deal import Deal
from pipeline.run.earlier import code_digest
from pipeline.study.anchors import IMAGE_PX, ZOOM_PX
from pipeline.study.screener import Preparer, frames_of

log = logging.getLogger(__name__)

LUNG_BYTES = IMAGE_PX * IMAGE_PX // 8
ROW_BYTES = IMAGE_PX**2 + ZOOM_PX**2 + LUNG_BYTES
PREPARING = (
    "archive/*.py",
    "study/lungs/*.py",
    "weights/lungs/*.safetensors",
    "study/compiled.py",
    "study/fill.py",
    "study/slices.py",
    "study/within.py",
    "study/screener.py",
)
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class CachedStudy:
    """A prepared study: what was kept of it, or the reason why nothing was."""

    file: str
    slice_index: tuple[int, ...] = ()
    crops: tuple[Box, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CachedSlice:
    """One slice: image [448, 448], zoom source [600, 600], lung [448, 448]."""

    image: Grey
    zoom: Grey
    lung: npt.NDArray[np.bool_]


def read_slice(folder: Path, study: CachedStudy, row: int) -> CachedSlice:
    """One slice of a cached study."""
    with (folder / f"{study.file}.bin").open("rb") as file:
        file.seek(row * ROW_BYTES)
        data = np.frombuffer(file.read(ROW_BYTES), np.uint8)
    image, zoom, bits = np.split(data, [IMAGE_PX**2, IMAGE_PX**2 + ZOOM_PX**2])
    lung = np.unpackbits(bits).reshape(IMAGE_PX, IMAGE_PX) > 0
    return CachedSlice(image.reshape(IMAGE_PX, IMAGE_PX), zoom.reshape(ZOOM_PX, ZOOM_PX), lung)


def cache_studies(
    world: Alone | World, archive: Path, folder: Path, config: Config, studies: Sequence[Study] | None
) -> dict[str, CachedStudy]:  # fmt: skip
    """Prepare what is not cached yet, shared over the ranks; on root, what came of every one of `studies` by key."""
    source = PrepareSource(studies, folder, config, world.size) if studies is not None else None
    with Preparer(archive, config, tick=world.tick) as preparer, closing(world.deal(source)) as tasks:
        for task, done in tasks:
            number, study = msgspec.json.decode(task, type=tuple[int, Study])
            write_study(folder, cache_name(study, config), preparer, study)
            done(str(number).encode())
    return source.found() if source else {}


class PrepareSource:
    """Root's side: the studies without a cached file."""

    def __init__(self, studies: Sequence[Study], folder: Path, config: Config, size: int) -> None:
        self._studies = studies
        self._folder = folder
        self._names = [cache_name(study, config) for study in studies]
        fresh = [number for number, name in enumerate(self._names) if not (folder / f"{name}.json").exists()]
        self._deal = Deal([(number, studies[number].cost) for number in fresh], size=size)
        self._bar = tqdm(total=len(studies), initial=len(studies) - len(fresh), unit="study", desc="preparing", disable=None)

    def give(self, rank: int) -> list[bytes]:
        """The next studies of `rank`."""
        return [msgspec.json.encode((number, self._studies[number])) for number in self._deal.give(rank)]

    def report(self, rank: int, report: bytes) -> None:
        """`rank` has cached one study."""
        self._deal.done(rank, int(report))
        self._bar.update()

    def lost(self, rank: int, *, died: bool = False) -> None:  # noqa: ARG002  a report says all there is
        """What `rank` held is open again."""
        self._deal.lost(rank)

    @property
    def finished(self) -> bool:
        """Every study is cached."""
        return self._deal.finished

    def found(self) -> dict[str, CachedStudy]:
        """What came of every study."""
        self._bar.close()
        pairs = zip(self._studies, self._names, strict=True)
        return {study.study_key: read_cached(self._folder, name) for study, name in pairs}


def write_study(folder: Path, name: str, preparer: Preparer, study: Study) -> None:
    """Prepare and cache one study; one that cannot be, whatever is the matter with it, is remembered with its reason."""
    try:
        prepared = preparer.best(study).prepared
    except (StudyError, MemoryError) as error:
        found = CachedStudy(name, reason=error.reason.value if isinstance(error, StudyError) else Reason.OUT_OF_MEMORY)
    except (PipelineError, RankDied):
        raise
    except Exception as error:  # noqa: BLE001  one study's fault is no reason to lose the others
        log.critical("study %s: INTERNAL_ERROR %s", study.study_key, frames_of(error))  # a traceback's message may identify
        found = CachedStudy(name, reason=Reason.INTERNAL_ERROR)
    else:
        write_whole(folder / f"{name}.bin", rows(prepared))
        found = CachedStudy(name, tuple(prepared.slice_index.tolist()), prepared.crops)
    write_whole(folder / f"{name}.json", msgspec.json.encode(found))


def read_cached(folder: Path, name: str) -> CachedStudy:
    """What is known of a cached study."""
    return msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=CachedStudy)


def rows(prepared: PreparedStudy) -> Iterable[bytes]:
    """A study's slices as bytes."""
    for image, zoom, lung in zip(prepared.images, prepared.zoom, prepared.lung, strict=True):
        yield image.tobytes() + zoom.tobytes() + np.packbits(lung).tobytes()


def cache_name(study: Study, config: Config) -> str:
    """The study's file: its key, and a digest of its manifest entry and of the settings and the code that prepare it."""
    prepares: Any = (study, config.slices, config.lung, config.fill, config.window, code_digest(PREPARING))
    digest = hashlib.sha256(msgspec.json.encode(prepares, order="deterministic")).hexdigest()
    return f"{study.study_key}-{digest[:16]}"
