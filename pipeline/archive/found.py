"""What the door finds: one `FoundFile` a file on disk, with a record for the file itself or for each member of a container."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.records import Facts, SliceSource


@dataclass(frozen=True, slots=True)
class Header:
    """What grouping and choosing need of one image (one frame of a multi-frame object).

    `problem` says why it cannot be used as a slice; `has_pixels` is False for reports and the like; `stack` holds the
    values that may tell two stacks of one series apart.
    """

    study_uid: str
    series_uid: str
    patient_id: str = ""
    sop_uid: str = ""
    sop_class: str = ""
    image_type: tuple[str, ...] = ()
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    stack: tuple[str, ...] = ()
    contrast: bool = False
    inverted: bool = False
    has_pixels: bool = True
    problem: str = ""
    source: SliceSource = field(default_factory=lambda: SliceSource("", 0.0))
    facts: Facts = field(default_factory=Facts)


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A NIfTI volume: voxels along the file's three axes, or the `problem` for which it cannot be used.

    `affine` [3 x 4, row by row] leads from voxels to millimetres to the patient's left, back and head.
    """

    source: SliceSource
    shape: tuple[int, int, int] = (0, 0, 0)
    affine: tuple[float, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file, or one member of a container: its images' headers, its picture, its volume, or why it is left out."""

    reason: str = ""
    member: str = ""
    headers: tuple[Header, ...] = ()
    picture: SliceSource | None = None
    picture_sha256: str = ""
    volume: VolumeFile | None = None


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One file that stands in a folder of the archive; `records` is empty until it has been read.

    `studies` names the studies that it has images of.
    """

    path: str
    size: int = 0
    mtime_ns: int = 0
    records: tuple[FileRecord, ...] = ()
    studies: tuple[str, ...] = ()
