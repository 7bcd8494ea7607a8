"""Which studies get DICOM objects, and where they go: a folder a study under the one that the user named."""

from __future__ import annotations

import heapq
import logging
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import ConfigurationError, Reason, StudyError
from pipeline.files import storage_error
from pipeline.records import StudyResult
from pipeline.report.dicom.objects import capture, segmentation, structured_report
from pipeline.report.dicom.subject import Algorithm, Subject, read_subject
from pipeline.run.journal import decode, read_raw
from pipeline.run.manifest import Manifest, read_manifest
from pipeline.run.paths import PRIVATE
from pipeline.run.resume import noted_records
from pipeline.run.run_toml import read_described

log = logging.getLogger(__name__)
N_CAPTURES = 3


@dataclass(frozen=True, slots=True)
class Written:
    """How many studies got their objects, how many objects that are, and how many studies could not get any."""

    n_studies: int
    n_objects: int
    n_left_out: int


def write_dicom(run: Path, folder: Path, *, studies: int = 10, box_from: float = 0.8, keys: Collection[str] = ()) -> Written:
    """Objects of the `studies` highest-scoring studies of `run`, or of those of `keys`, into `folder`, empty or absent."""
    described = read_described(run)
    folder = _prepared(folder)
    manifest = read_manifest(run / PRIVATE)
    first = described.networks[0]
    network = Algorithm(0, first.column, first.sha256, first.positive, described.code_version)
    n_studies = n_objects = n_left_out = 0
    for result in _chosen(run, keys) if keys else _highest(run, studies):
        try:
            subject = _subject(manifest, result, network, described.config)
            objects = _objects(subject, box_from)
        except StudyError as error:
            log.warning("study %s: no DICOM output: %s", result.study_key, error.reason)
            n_left_out += 1
            continue
        _save(objects, folder / result.study_key)
        n_studies = n_studies + 1
        n_objects = n_objects + len(objects)
    return Written(n_studies, n_objects, n_left_out)


def _prepared(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            raise ConfigurationError(f"{folder} is not empty: name a new folder for the DICOM outputs")
    except OSError as error:
        raise storage_error(error, folder) from error
    return folder


def _highest(run: Path, count: int) -> list[StudyResult]:
    """The results of the studies that score highest."""
    return heapq.nsmallest(count, _results(run), key=lambda result: (-result.probabilities[0], result.study_key))


def _chosen(run: Path, keys: Collection[str]) -> list[StudyResult]:
    """Those of `keys` that were scored."""
    wanted = set(keys)
    return [result for result in _results(run) if result.study_key in wanted]


def _results(run: Path) -> Iterator[StudyResult]:
    for raw in read_raw([record for record in noted_records(run).values() if record.status.startswith("OK")]):
        line = decode(raw)
        if line is not None and line.result is not None:
            yield line.result


def _subject(manifest: Manifest, result: StudyResult, network: Algorithm, config: Config) -> Subject:
    number = next(n for n, entry in enumerate(manifest.entries) if entry.study_key == result.study_key)
    series = next(one for one in manifest.study(number).candidates if one.series_key == result.series_key)
    return read_subject(Path(manifest.heading.root), result, series, network, config)


def _objects(subject: Subject, box_from: float) -> dict[str, Any]:
    """File name -> object. Raises StudyError where the originals lack what highdicom must copy from them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # odd names and the like are the originals' own
            objects: dict[str, Any] = {"report.dcm": structured_report(subject, box_from), "lungs.dcm": segmentation(subject)}
            for number, place in enumerate(subject.top(N_CAPTURES), 1):
                objects[f"overlay-{number}.dcm"] = capture(subject, place, box_from, number)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise StudyError(Reason.INVALID_VALUE, "write") from error
    return objects


def _save(objects: dict[str, Any], folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
        for name, data in objects.items():
            data.save_as(folder / name, enforce_file_format=True)
    except OSError as error:
        raise storage_error(error, folder) from error
