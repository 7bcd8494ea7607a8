"""Folders of exported JPEG or PNG slices: one folder a patient, in the order of the numbers in the names.

A folder is a patient when it holds pictures and no DICOM image; pictures beside DICOM images are strays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from pipeline.archive.found import FileRecord
from pipeline.archive.selection import seed
from pipeline.config import SeriesConfig
from pipeline.errors import Reason
from pipeline.pseudonym import pseudonym
from pipeline.records import Event, Facts, Series, SliceSource, Study

USUAL_FIELD_MM = 384.0
"""Exported pictures say no pixel size; this is a chest's usual field of view, across the picture."""
COST = 300.0


def build_picture_study(folder: str, records: Sequence[FileRecord], config: SeriesConfig, key: bytes) -> Study:
    """The patient in `folder`; too few pictures make an EXCLUDED one."""
    pairs = [(record.picture, record.picture_sha256) for record in records if record.picture is not None]
    pairs.sort(key=lambda pair: _natural(pair[0]))
    study = Study(
        pseudonym(key, "study", folder), pseudonym(key, "patient", folder), folder, folder, n_files=len(records), cost=COST
    )  # fmt: skip
    if len(pairs) < config.min_slices:
        return replace(study, status="EXCLUDED", reason=Reason.TOO_FEW_SLICES, cost=0.0)
    spacing_mm = USUAL_FIELD_MM / max(1, pairs[0][0].columns)
    series = Series(
        pseudonym(key, "series", folder),
        folder,
        seed("".join(digest for _, digest in pairs).encode()),
        tuple(replace(source, z_mm=float(place), place=place) for place, (source, _) in enumerate(pairs)),
        (spacing_mm, spacing_mm),
        kind="image",
        events=(Event("series", "select", Reason.MISSING_GEOMETRY),),
        facts=Facts(n_slices=len(pairs)),
    )
    return replace(study, candidates=(series,))


def picture_folder(source: SliceSource) -> str:
    """The folder, or the folder within a container, in which a picture stands."""
    place = f"{source.path}!/{source.member}" if source.member else source.path
    return place.rpartition("/")[0]


def _natural(source: SliceSource) -> tuple[list[int], str]:
    """Numbers compare as numbers, so that slice 10 comes behind slice 9."""
    place = source.member or source.path
    return [int(digits) for digits in re.findall(r"\d+", place.rpartition("/")[2])], place
