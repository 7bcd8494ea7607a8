"""Exported JPEG or PNG slices: one folder a patient, in the order of the numbers in the names, or as a CSV says (listed.py).

A folder is a patient when it holds pictures and no DICOM image; pictures beside DICOM images are strays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from msgspec.structs import replace as changed

from pipeline.archive.found import FileRecord
from pipeline.archive.selection import seed
from pipeline.config import SeriesConfig
from pipeline.errors import Reason
from pipeline.pseudonym import pseudonym
from pipeline.records import Event, Facts, Series, SliceSource, Study

USUAL_FIELD_MM = 384.0
"""Exported pictures say no pixel size; this is a chest's usual field of view, across the picture."""
USUAL_LENGTH_MM, WIDEST_STEP_MM = 300.0, 20.0
"""Nor how far they lie apart: a patient's pictures share out a chest's usual length."""
COST = 300.0


def build_picture_study(folder: str, records: Sequence[FileRecord], config: SeriesConfig, key: bytes) -> Study:
    """The patient in `folder`; too few pictures make an EXCLUDED one."""
    ordered = sorted((_natural(record.picture), place) for place, record in enumerate(records) if record.picture is not None)
    study = picture_study(folder, [(records[place], "") for _, place in ordered], config, key)
    if len(ordered) < config.min_pictures:
        study = _too_few(study, len(ordered))
    return replace(study, n_files=len(records))


def picture_study(name: str, pictures: Sequence[tuple[FileRecord, str]], config: SeriesConfig, key: bytes) -> Study:
    """One study of pictures, (each, the path of its mask or ""), in that order; none make an EXCLUDED one."""
    study = Study(pseudonym(key, "study", name), pseudonym(key, "patient", name), name, name, n_files=len(pictures), cost=COST)
    step_mm = min(WIDEST_STEP_MM, USUAL_LENGTH_MM / max(1, len(pictures)))
    slope, intercept = _window(config)
    slices = [
        changed(record.picture, z_mm=place * step_mm, place=place, mask=mask, slope=slope, intercept=intercept)
        for place, (record, mask) in enumerate(pictures)
        if record.picture is not None
    ]
    if not slices:
        return _too_few(study, 1)
    spacing_mm = USUAL_FIELD_MM / max(1, slices[0].columns)
    series = Series(
        pseudonym(key, "series", name),
        name,
        seed("".join(sorted(record.picture_sha256 for record, _ in pictures)).encode()),
        tuple(slices),
        (spacing_mm, spacing_mm),
        kind="image",
        events=(Event("series", "select", Reason.MISSING_GEOMETRY),),
        facts=Facts(n_slices=len(slices)),
    )
    return replace(study, candidates=(series,))


def _too_few(study: Study, count: int) -> Study:
    event = Event("series", "select", Reason.TOO_FEW_SLICES, count)
    return replace(study, status="EXCLUDED", reason=Reason.TOO_FEW_SLICES, cost=0.0, candidates=(), events=(event,))


def _window(config: SeriesConfig) -> tuple[float, float]:
    """(HU a grey, HU of black) that the configuration says; 0 where each picture's own greys tell."""
    low = config.picture_low_hu
    high = config.picture_high_hu
    return (0.0, 0.0) if isinstance(low, str) or isinstance(high, str) else ((high - low) / 255.0, low)


def picture_folder(source: SliceSource) -> str:
    """The folder, or the folder within a container, in which a picture stands."""
    place = f"{source.path}!/{source.member}" if source.member else source.path
    return place.rpartition("/")[0]


def _natural(source: SliceSource) -> tuple[list[int], str]:
    """Numbers compare as numbers, so that slice 10 comes behind slice 9."""
    place = source.member or source.path
    return [int(digits) for digits in re.findall(r"\d+", place.rpartition("/")[2])], place
