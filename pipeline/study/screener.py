"""One study through the stages: read -> lung -> prepare -> infer -> aggregate; whatever becomes of it is one journal line.

The only place that catches errors per study.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.archive import Decoder, read_mask, root_of
from pipeline.config import Config
from pipeline.errors import PipelineError, RankDied, Reason, StudyError
from pipeline.mpi.stall import moved
from pipeline.records import DealtStudy, Line, PreparedStudy, Series, Study, StudyResult, Volume
from pipeline.study.contact_sheet import write_contact_sheet
from pipeline.study.drenet import load_checkpoint_bytes
from pipeline.study.engine import Engine
from pipeline.study.lungs import judged_masks
from pipeline.study.picture_pack import Album, deep_pictures, study_pictures
from pipeline.study.pool import failed_result, study_result
from pipeline.study.slices import Chosen, Mask, prepare
from pipeline.study.within import Look, Reader, has_few, look_again

log = logging.getLogger(__name__)


WITHOUT_LUNGS = frozenset({Reason.NO_LUNG_FOUND, Reason.LUNG_IMPLAUSIBLE})
"""Reasons for which the next candidate is tried."""


class Preparer:
    """Reads a study of one archive and makes of it what networks see. A context manager; holds the decoder."""

    def __init__(
        self, archive: Path, config: Config, *, tick: Callable[[], None] = lambda: None, sheets: Path | None = None,
        begins: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._archive, self._config, self._tick, self._sheets = root_of(archive), config, tick, sheets
        self._begins = begins
        cv2.setNumThreads(config.engine.threads)
        self._decoder = Decoder(config.run.decode_cpu_s, tick)
        self.seconds: dict[str, float] = {}
        self.seen: tuple[Volume, Mask, PreparedStudy] | None = None

    def __enter__(self) -> Preparer:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def best(self, study: Study) -> tuple[Series, PreparedStudy]:
        """The best series, prepared; one without believable lungs falls through to the next. Raises StudyError."""
        self.seconds, self.seen = {}, None
        for series in study.candidates:
            try:
                return series, self._prepared(study, series)
            except StudyError as error:
                if error.reason not in WITHOUT_LUNGS or series is study.candidates[-1]:
                    raise
        raise StudyError(Reason.NO_SUITABLE_SERIES, "select")

    def _prepared(self, study: Study, series: Series) -> PreparedStudy:
        look = self._look(series)
        with self.timed("prepare"):
            prepared = prepare(look.volume, look.masks, series.seed, self._config, look.doubts)
        self.seen = (look.volume, look.masks, prepared)
        if self._sheets:
            with self.timed("pictures"):
                write_contact_sheet(self._sheets / f"{study.study_key}.png", *self.seen)
        return prepared

    def _look(self, series: Series) -> Look:
        """The slices that the manifest has chosen, with their lungs; where few of them show any, others within the lung."""
        reader, config = Reader(self._archive, series, self._decoder), self._config.slices
        first = self._seen(reader.first)
        if config.within == "series" or not series.packed or not has_few(first, config):
            return first
        return look_again(first, reader.z_mm(), lambda places: self._seen(lambda: reader.volume(places)), config) or first

    def _seen(self, read: Callable[[], Volume]) -> Look:
        with self.timed("read"):
            volume = read()
        with self.timed("lung"):
            return Look(volume, *self._masks(volume))

    def _masks(self, volume: Volume) -> tuple[Mask, Chosen]:
        """The lungs as found, or as given with exported pictures, and whose masks are implausible.

        Pictures' are never: their HU, told by their greys, are too coarse to tell an organ from consolidation.
        """
        given = [(row, path) for row, path in enumerate(volume.masks) if path]
        if len(given) == len(volume.hu):
            masks, doubts = np.zeros(volume.hu.shape, bool), np.zeros(len(volume.hu), bool)
        else:
            masks, doubts = judged_masks(volume.hu, volume.z_mm, volume.spacing_mm, self._config.lung.recipe)
        for row, path in given:
            masks[row] = read_mask(self._archive, path, volume.hu.shape[1:], self._decoder)
        return masks, doubts & (not volume.masks)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what the stage takes to `seconds`."""
        self._begins(stage)
        begun = time.monotonic()
        yield
        moved()
        self._tick()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - begun


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where pictures go, beside the journal: contact sheets into the folder `sheets`, a few studies' slices into `pack`.

    `begins` is told the name of each stage.
    """

    sheets: Path | None = None
    pack: Path | None = None
    begins: Callable[[str], None] = lambda _: None


class Screener:
    """One rank's replica: the networks, the decoder, and how to take a study through them. A context manager.

    `networks` are checkpoints, or an engine that holds them already.
    """

    def __init__(
        self, archive: Path, config: Config, networks: Sequence[bytes] | Engine, outputs: Outputs = Outputs(), *,
        local_rank: int = 0, tick: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._config, self._tick = config, tick
        self._preparer = Preparer(archive, config, tick=tick, sheets=outputs.sheets, begins=outputs.begins)
        if not isinstance(networks, Engine):
            networks = Engine([load_checkpoint_bytes(data) for data in networks], config.engine, local_rank=local_rank)
        self._engine = networks
        self._album = Album(outputs.pack, config.run) if outputs.pack else None

    def __enter__(self) -> Screener:
        return self

    def __exit__(self, *_: object) -> None:
        self._preparer.__exit__()

    def line(self, dealt: DealtStudy) -> Line:
        """The journal line of one study, whatever becomes of it. Raises only where the run itself is in trouble."""
        begun = time.monotonic()
        result, failed = self._result(dealt.study)
        self._keep_pictures(result, dealt.input)
        said = result.reason or f"{result.probabilities[0]:.3f}"
        log.info("study %s: %s %s, %.2f s", result.study_key, result.status, said, time.monotonic() - begun)
        seconds = {stage: round(spent, 4) for stage, spent in self._preparer.seconds.items()}
        return Line(result=result, input=dealt.input, tries=dealt.tries + failed, seconds=seconds, ended=round(time.time(), 3))

    def _keep_pictures(self, result: StudyResult, input_: str) -> None:
        """Before the study is journalled, so that none is finished without them; a fault in drawing changes no result."""
        seen = self._preparer.seen
        if self._album is None or seen is None or not self._album.wants(result):
            return
        key = result.study_key
        with self._preparer.timed("pictures"):
            try:
                pictures = study_pictures(key, input_, *seen, self._config.window, without=self._engine.without_each())
                deep = deep_pictures(key, input_, seen[0]) if pictures and self._album.is_top(key) else None
            except Exception as error:  # noqa: BLE001  see above
                log.warning("study %s: no pictures: %s", result.study_key, frames_of(error))
                return
            if deep:
                self._album.add_deep(deep)
            if pictures:
                self._album.add(pictures)

    def _result(self, study: Study) -> tuple[StudyResult, bool]:
        """(the study's row, whether it failed)."""
        try:
            return self._scored(study), False
        except StudyError as error:
            return failed_result(study, error), True
        except (PipelineError, RankDied):
            raise
        except MemoryError:
            return failed_result(study, StudyError(Reason.OUT_OF_MEMORY, "infer")), True
        except Exception as error:  # noqa: BLE001  recorded as INTERNAL_ERROR; after a number of them the run stops
            log.critical("study %s: INTERNAL_ERROR %s", study.study_key, frames_of(error))  # a traceback's message may identify
            return failed_result(study, StudyError(Reason.INTERNAL_ERROR, "infer")), True

    def _scored(self, study: Study) -> StudyResult:
        series, prepared = self._preparer.best(study)
        with self._preparer.timed("infer"):
            predictions = self._engine.predict(prepared, self._tick)
            return study_result(study, series, prepared, predictions)


def lost_line(dealt: DealtStudy) -> Line:
    """What is recorded of a study should its rank die over it; written by the rank's watcher."""
    result = failed_result(dealt.study, StudyError(Reason.WORKER_LOST, "infer"))
    return Line(result=result, input=dealt.input, tries=dealt.tries + 1, ended=round(time.time(), 3))


def frames_of(error: Exception) -> str:
    """Where it happened, innermost last, without the message: messages hold paths and header values."""
    frames = traceback.extract_tb(error.__traceback__)
    return " > ".join([*(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames), type(error).__name__])
