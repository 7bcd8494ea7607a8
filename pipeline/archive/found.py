"""What the door finds: one `FoundFile` a file on disk, with a record for the file itself or for each member of a container."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from pipeline.records import Facts, SliceSource


class Traits(NamedTuple):
    """What tells acquisitions of one series apart, as the header writes it; "" where it says nothing.

    `phase` and `trigger` say where in a heartbeat or a breath. Checksums, of which only equality counts, stand for others:
    `frame` for frame of reference, series number and stack ID, `note` for the series' description and comments.
    """

    acquisition: str = ""
    moment: str = ""
    phase: str = ""
    trigger: str = ""
    kernel: str = ""
    frame: str = ""
    note: str = ""
    time: str = ""
    number: str = ""

    def lasting(self) -> tuple[str, ...]:
        """What the slices of one acquisition share: all but time and number."""
        return self[:-2]


NO_TRAITS = Traits()


class Header(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What grouping and choosing need of one image (one frame of a multi-frame object).

    `patient_id` and `person` are those of patient.py. `problem` says why it cannot be used as a slice; `has_pixels` is False
    for reports and the like. `matched` has a bit for each of the user's rules that the series' description meets (rules.py).
    """

    study_uid: str
    series_uid: str
    patient_id: str = ""
    person: str = ""
    sop_uid: str = ""
    sop_class: str = ""
    image_type: tuple[str, ...] = ()
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    traits: Traits = NO_TRAITS
    contrast: bool = False
    inverted: bool = False
    has_pixels: bool = True
    matched: int = 0
    problem: str = ""
    source: SliceSource = SliceSource("", 0.0)
    facts: Facts = Facts()


class VolumeFile(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A NIfTI volume: voxels along the file's three axes, or the `problem` for which it cannot be used.

    `affine` [3 x 4, row by row] leads from voxels to millimetres to the patient's left, back and head.
    """

    source: SliceSource
    shape: tuple[int, int, int] = (0, 0, 0)
    affine: tuple[float, ...] = ()
    problem: str = ""


class FileRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One file, or one member of a container: its images' headers, its picture, its volume, or why it is left out."""

    reason: str = ""
    member: str = ""
    headers: tuple[Header, ...] = ()
    picture: SliceSource | None = None
    picture_sha256: str = ""
    volume: VolumeFile | None = None


class FoundFile(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One file that stands in a folder of the archive; `records` is empty until it has been read.

    `studies` names the studies that it has images of.
    """

    path: str
    size: int = 0
    mtime_ns: int = 0
    records: tuple[FileRecord, ...] = ()
    studies: tuple[str, ...] = ()
