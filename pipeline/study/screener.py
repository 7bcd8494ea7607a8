"""One study through the stages: read -> lung -> prepare -> infer -> aggregate; whatever becomes of it is one journal line.

The only place that catches errors per study.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from pipeline.archive import Decoder, read_mask, root_of
from pipeline.config import Config
from pipeline.errors import PipelineError, RankDied, Reason, StudyError
from pipeline.records import DealtStudy, Line, PreparedStudy, Series, Study, StudyResult, Volume
from pipeline.study.checkpoint import Checkpoint, checkpoint_of
from pipeline.study.contact_sheet import write_contact_sheet
from pipeline.study.engine import Engine
from pipeline.study.freed import keep_freed_memory
from pipeline.study.lungs import judged_masks
from pipeline.study.picture_pack import Album
from pipeline.study.pictures import deep_pictures, study_pictures
from pipeline.study.pool import failed_result, study_result
from pipeline.study.slices import Chosen, Mask, prepare
from pipeline.study.stopwatch import Stopwatch
from pipeline.study.within import Look, Reader, has_few, look_again

log = logging.getLogger(__name__)


WITHOUT_LUNGS = frozenset({Reason.NO_LUNG_FOUND, Reason.LUNG_IMPLAUSIBLE})
"""Reasons for which the next candidate is tried."""


@dataclass(frozen=True, slots=True)
class SeenStudy:
    """What was seen of a study: the series that was read, its volume, the lungs in it, and what the networks are given."""

    series: Series
    volume: Volume
    masks: Mask
    prepared: PreparedStudy


class Preparer:
    """Reads a study of one archive and makes of it what networks see. A context manager; holds the decoder."""

    def __init__(
        self, archive: Path, config: Config, *, tick: Callable[[], None] = lambda: None, sheets: Path | None = None
    ) -> None:  # fmt: skip
        self._archive = root_of(archive)
        self._config = config
        self._tick = tick
        self._sheets = sheets
        cv2.setNumThreads(config.engine.threads)
        keep_freed_memory()
        self._decoder = Decoder(config.run.decode_cpu_s, tick)

    def __enter__(self) -> Preparer:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def best(self, study: Study, watch: Stopwatch | None = None) -> SeenStudy:
        """The best series, prepared; one without believable lungs falls through to the next. Raises StudyError.

        `watch` measures the stages, those of a study that fails too.
        """
        watch = watch or Stopwatch(tick=self._tick)
        for series in study.candidates:
            try:
                return self._prepared(study, series, watch)
            except StudyError as error:
                if error.reason not in WITHOUT_LUNGS or series is study.candidates[-1]:
                    raise
        raise StudyError(Reason.NO_SUITABLE_SERIES, "select")

    def _prepared(self, study: Study, series: Series, watch: Stopwatch) -> SeenStudy:
        look = self._look(series, watch)
        with watch.stage("prepare"):
            prepared = prepare(look.volume, look.masks, series.seed, self._config, look.doubts)
        if self._sheets:
            with watch.stage("pictures"):
                write_contact_sheet(self._sheets / f"{study.study_key}.png", look.volume, look.masks, prepared)
        return SeenStudy(series, look.volume, look.masks, prepared)

    def _look(self, series: Series, watch: Stopwatch) -> Look:
        """The slices that the manifest has chosen, with their lungs; where few of them show any, others within the lung."""
        reader = Reader(self._archive, series, self._decoder)
        config = self._config.slices
        first = self._seen(reader.first, watch)
        if config.within == "series" or not series.packed or not has_few(first, config):
            return first

        def look_at(places: Sequence[int]) -> Look:
            return self._seen(partial(reader.volume, places), watch)

        return look_again(first, reader.z_mm(), look_at, config) or first

    def _seen(self, read: Callable[[], Volume], watch: Stopwatch) -> Look:
        with watch.stage("read"):
            volume = read()
        with watch.stage("lung"):
            return Look(volume, *self._masks(volume))

    def _masks(self, volume: Volume) -> tuple[Mask, Chosen]:
        """The lungs as found, or as given with exported pictures, and whose masks are implausible.

        Pictures' are never: their HU, told by their greys, are too coarse to tell an organ from consolidation.
        """
        given = [(row, path) for row, path in enumerate(volume.masks) if path]
        if len(given) == len(volume.hu):
            masks = np.zeros(volume.hu.shape, bool)
            doubts = np.zeros(len(volume.hu), bool)
        else:
            lung, keep_fraction = self._config.lung, self._config.slices.keep_fraction
            masks, doubts = judged_masks(volume.hu, volume.z_mm, volume.spacing_mm, lung.recipe, lung.judge, keep_fraction)
        for row, path in given:
            masks[row] = read_mask(self._archive, path, volume.hu.shape[1:], self._decoder)
        return masks, doubts & (not volume.masks)


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

    `networks` are checkpoints, or their files' bytes; or an engine that holds them already.
    """

    def __init__(
        self, archive: Path, config: Config, networks: Sequence[Checkpoint] | Sequence[bytes] | Engine,
        outputs: Outputs = Outputs(), *, local_rank: int = 0, tick: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._config = config
        self._tick = tick
        self._begins = outputs.begins
        self._preparer = Preparer(archive, config, tick=tick, sheets=outputs.sheets)
        if not isinstance(networks, Engine):
            loaded = [one if isinstance(one, Checkpoint) else checkpoint_of(one) for one in networks]
            networks = Engine(loaded, config.engine, local_rank=local_rank)
        self._engine = networks
        self._album = Album(outputs.pack, config.run) if outputs.pack else None

    def __enter__(self) -> Screener:
        return self

    def __exit__(self, *_: object) -> None:
        self._preparer.__exit__()

    def line(self, dealt: DealtStudy) -> Line:
        """The journal line of one study, whatever becomes of it. Raises only where the run itself is in trouble."""
        begun = time.monotonic()
        watch = Stopwatch(self._begins, self._tick)
        result, seen = self._result(dealt.study, watch)
        if seen and self._album and self._album.wants(result):
            with watch.stage("pictures"):
                self._keep_pictures(self._album, result, dealt.input, seen)
        said = result.reason or f"{result.probabilities[0]:.3f}"
        log.info("study %s: %s %s, %.2f s", result.study_key, result.status, said, time.monotonic() - begun)
        return Line(
            result=result,
            input=dealt.input,
            tries=dealt.tries + (seen is None),
            seconds={stage: round(spent, 4) for stage, spent in watch.seconds.items()},
            ended=round(time.time(), 3),
        )

    def _keep_pictures(self, album: Album, result: StudyResult, input_: str, seen: SeenStudy) -> None:
        """Before the study is journalled, so that none is finished without them; a fault in drawing changes no result."""
        key = result.study_key
        try:
            pictures = study_pictures(
                key,
                input_,
                seen.volume,
                seen.masks,
                seen.prepared,
                self._config.window,
                without=self._engine.without_each(),
            )
            deep = deep_pictures(key, input_, seen.volume) if pictures and album.is_top(key) else None
        except Exception as error:  # noqa: BLE001  see above
            log.warning("study %s: no pictures: %s", key, frames_of(error))
            return
        if deep:
            album.add_deep(deep)
        if pictures:
            album.add(pictures)

    def _result(self, study: Study, watch: Stopwatch) -> tuple[StudyResult, SeenStudy | None]:
        """(the study's row, what was seen of it), the latter of a study that did not fail."""
        try:
            return self._scored(study, watch)
        except StudyError as error:
            return failed_result(study, error), None
        except (PipelineError, RankDied):
            raise
        except MemoryError:
            return failed_result(study, StudyError(Reason.OUT_OF_MEMORY, "infer")), None
        except Exception as error:  # noqa: BLE001  recorded as INTERNAL_ERROR; after a number of them the run stops
            log.critical("study %s: INTERNAL_ERROR %s", study.study_key, frames_of(error))  # a traceback's message may identify
            return failed_result(study, StudyError(Reason.INTERNAL_ERROR, "infer")), None

    def _scored(self, study: Study, watch: Stopwatch) -> tuple[StudyResult, SeenStudy]:
        seen = self._preparer.best(study, watch)
        with watch.stage("infer"):
            predictions = self._engine.predict(seen.prepared, self._tick)
            return study_result(study, seen.series, seen.prepared, predictions), seen


def lost_line(dealt: DealtStudy) -> Line:
    """What is recorded of a study should its rank die over it; written by the rank's watcher."""
    result = failed_result(dealt.study, StudyError(Reason.WORKER_LOST, "infer"))
    return Line(result=result, input=dealt.input, tries=dealt.tries + 1, ended=round(time.time(), 3))


def frames_of(error: Exception) -> str:
    """Where it happened, innermost last, without the message: messages hold paths and header values."""
    frames = traceback.extract_tb(error.__traceback__)
    return " > ".join([*(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames), type(error).__name__])
