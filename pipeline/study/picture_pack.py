"""The few studies whose pictures are kept at screening: those that score highest, and those flagged; a pack a rank and attempt.

A pack's line has the form of a journal's (JSON, TAB, CRC-32); a torn line is passed over, the last of a study counts. A study
among the run's `images_top` highest is among its own rank's highest when its turn comes, so it is always kept.

Beside the packs lies a file of its own for each study that stands among its rank's highest, with every grey of its slices
(`DeepPictures`): a study that another has pushed down loses it, and at the end of a run only the run's highest have theirs.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.config import RunConfig
from pipeline.files import SEAL, sealed, storage_error, unsealed, write_whole
from pipeline.records import StudyResult
from pipeline.study.pictures import DeepPictures, StudyPictures


@dataclass(frozen=True, slots=True)
class PackLine:
    """Where a study's line begins."""

    path: Path
    offset: int


class _Head(msgspec.Struct):
    study_key: str
    input: str


class Album:
    """One rank's pack, opened when the first study is kept. Raises StorageError as the journal does."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self._path = path
        self._config = config
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
        line = sealed(msgspec.json.encode(pictures))
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


def find_pictures(run: Path, inputs: dict[str, str]) -> dict[str, PackLine]:
    """Where the last pictures of each study lie that were made of its present input (`inputs`: study key -> digest)."""
    head = msgspec.json.Decoder(_Head)
    lines: dict[str, PackLine] = {}
    for path in sorted((run / "images").glob("*.pack")):
        offset = 0
        with path.open("rb") as file:
            for line in file:
                text = unsealed(line)
                one = head.decode(text) if text else None
                if one and inputs.get(one.study_key) == one.input:
                    lines[one.study_key] = PackLine(path, offset)
                offset += len(line)
    return lines


def read_pictures(line: PackLine) -> StudyPictures:
    """The pictures at `line`."""
    with line.path.open("rb") as file:
        file.seek(line.offset)
        return msgspec.json.decode(file.readline()[:-SEAL], type=StudyPictures)
