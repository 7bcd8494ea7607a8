"""The nouns of the pipeline: frozen records that its stages take and return.

Those of which an archive has one for every slice are msgspec's, which are made and read many times as fast as dataclasses.

Axes are always [slice, row, column]. A slice is numbered by its place in its series sorted along +z (superior), from 0.
Volume pixels are oriented rows = +y (posterior), columns = +x (patient left); "original" pixels are those of the stored
image. Lengths are millimetres, intensities Hounsfield units. A `key` is a keyed pseudonym; a `uid` identifies a patient
and stays under the run's `private/` folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:  # numpy is not to be loaded before MPI
    import numpy as np
    import numpy.typing as npt

RESEARCH = "Research use only."
NOTICE = f"{RESEARCH} Not a medical device."
"""Stands wherever a score does."""

DRAWN = "trained on drawings of patients; says nothing of people"
"""Stands wherever a score of a shipped network does."""

DEFAULT_THRESHOLD = 0.5
"""The probability from which a study counts as positive where a checkpoint states none."""

MIN_LUNG_FRACTION = 0.5
"""A detail that shows less original lung than this lies in the fill, which copies lesions: it is no finding."""

Status = Literal["OK", "OK_WITH_WARNINGS", "EXCLUDED", "FAILED"]
Scope = Literal["file", "series", "study", "run"]
Stage = Literal["walk", "unpack", "index", "select", "decode", "volume", "lung", "infer", "write"]
Details = Literal["anywhere", "lung"]
"""Where a network chooses its details: over the whole picture, as published, or among the anchors that show original lung."""

Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): row' = a*row + b*column + c, column' = d*row + e*column + f, for continuous pixel edges."""

IDENTITY_AFFINE: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Event:
    """Something noted about a file, a series or a study: a reason code from `errors.Reason` and how often it was met."""

    scope: Scope
    stage: Stage
    code: str
    count: int = 1


class SliceSource(msgspec.Struct, frozen=True, gc=False):
    """Where one slice's pixels lie on disk, with all that decoding them to HU needs (no second header read).

    `path` is relative to the archive's root, bytes beyond printable ASCII percent-encoded; `member` is the name inside a ZIP,
    else empty. `place` numbers the slice in its series sorted along +z. `offset` and `length` give the pixel data's bytes
    within the file: the raw value of a native frame, or the single encapsulated frame. `mask` is the path of a given lung mask.

    `start` is where a container's member begins (in a ZIP its own header), and `check` a digest of the first bytes there.
    `padding` and its limit are the header's 16 bits, whatever their sign; `overlays` the bits of a word that hold overlays.
    """

    path: str
    z_mm: float
    offset: int = 0
    length: int = 0
    member: str = ""
    frame: int = 0
    rows: int = 0
    columns: int = 0
    bits_allocated: int = 16
    bits_stored: int = 16
    high_bit: int = 15
    signed: bool = True
    slope: float = 1.0
    intercept: float = 0.0
    padding: int | None = None
    padding_limit: int | None = None
    overlays: int = 0
    syntax: str = "1.2.840.10008.1.2.1"
    size: int = 0
    mtime_ns: int = 0
    place: int = 0
    mask: str = ""
    start: int = 0
    check: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One candidate series: its slices sorted along +z, duplicates already dropped.

    In the manifest it holds only the slices that screening reads, and all of them in `packed` (archive/packed.py), empty where
    there are no others; `facts.n_slices` counts them all.

    `seed` comes from the series UID (or the content's SHA-256 where there is none) and seeds the fill. `original_affine`
    maps volume pixel edges to original ones. `facts` are the non-identifying columns of the tables.
    """

    series_key: str
    series_uid: str
    seed: int
    slices: tuple[SliceSource, ...]
    spacing_mm: tuple[float, float]
    original_affine: Affine = IDENTITY_AFFINE
    kind: Literal["dicom", "image", "nifti"] = "dicom"
    score: float = 0.0
    events: tuple[Event, ...] = ()
    facts: Facts = field(default_factory=lambda: Facts())  # noqa: PLW0108  Facts is defined below
    packed: bytes = b""


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What the tables tell of a series by default: acquisition, never identity."""

    manufacturer: str = ""
    model: str = ""
    kernel: str = ""
    slice_thickness_mm: float | None = None
    kvp: float | None = None
    spacing_between_mm: float | None = None
    z_extent_mm: float | None = None
    n_slices: int = 0


@dataclass(frozen=True, slots=True)
class LostSeries:
    """A series, or a stack of one, that is no candidate, and why."""

    series_key: str
    n_slices: int
    reason: str


@dataclass(frozen=True, slots=True)
class Study:
    """One study of the manifest: ranked candidate series, best first; none means EXCLUDED for `reason`.

    `patient_id` is issuer, backslash and ID (archive/patient.py); where that is a placeholder, the study is its issuer.
    `cost` estimates the work in bytes-equivalents and orders the dealing. `n_files` counts every file of the study.
    """

    study_key: str
    patient_key: str
    study_uid: str
    patient_id: str
    candidates: tuple[Series, ...] = ()
    status: Literal["READY", "EXCLUDED", "FAILED"] = "READY"
    reason: str = ""
    events: tuple[Event, ...] = ()
    label: str = ""
    cost: float = 1.0
    n_files: int = 0
    lost: tuple[LostSeries, ...] = ()


@dataclass(frozen=True, slots=True)
class DealtStudy:
    """A study on its way to a rank; `input` is its entry's digest, `tries` how often it failed for a passing reason."""

    study: Study
    input: str
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Volume:
    """Decoded slices of one series, sorted along +z: `hu` int16 [S, R, C] in [-1024, 3071].

    `slice_index` [S] is each slice's place in the whole series; `n_series` is that series' length. `masks` holds, for
    pictures, the path of each one's given lung mask or ""; they are `turned` where the first of them lies nearest to the head.
    """

    hu: npt.NDArray[np.int16]
    z_mm: npt.NDArray[np.float64]
    slice_index: npt.NDArray[np.int32]
    spacing_mm: tuple[float, float]
    original_affine: Affine = IDENTITY_AFFINE
    n_series: int = 0
    events: tuple[Event, ...] = ()
    masks: tuple[str, ...] = ()
    turned: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open rectangle in continuous pixel edges of the picture it is said of."""

    top: float
    left: float
    bottom: float
    right: float


@dataclass(frozen=True, slots=True)
class PreparedStudy:
    """The slices that a network sees, one row a kept slice [K].

    `images` uint8 [K, 448, 448]; `zoom` uint8 [K, 600, 600]; `lung` bool [K, 448, 448], the original (not filled) lung;
    `crops` the volume-pixel box that the picture shows; `lung_area_mm2` [K].
    """

    images: npt.NDArray[np.uint8]
    zoom: npt.NDArray[np.uint8]
    lung: npt.NDArray[np.bool_]
    slice_index: npt.NDArray[np.int32]
    z_mm: npt.NDArray[np.float64]
    crops: tuple[Box, ...]
    lung_area_mm2: npt.NDArray[np.float64]
    original_affine: Affine = IDENTITY_AFFINE
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Detail:
    """One of the K details of a slice. `box` is in network pixels, `original` in the stored image's; both lie in the picture.

    `score` ranks proposals and is no probability; `probability` is the positive class's softmax of the detail's own
    logits; `lung_fraction` is the share of what the network looked at, its part outside the picture counted, that shows
    original lung (below MIN_LUNG_FRACTION it is no finding).
    """

    box: Box
    original: Box
    score: float
    attention: float
    probability: float
    lung_fraction: float


@dataclass(frozen=True, slots=True)
class SlicePrediction:
    """What one network says of one slice."""

    probability: float
    details: tuple[Detail, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoredSlice:
    """One kept slice and what every network says of it, in the order of the run's `--weights`."""

    slice_index: int
    z_mm: float
    lung_area_mm2: float
    predictions: tuple[SlicePrediction, ...]


@dataclass(frozen=True, slots=True)
class StudyResult:
    """One study's row: exactly one for every study discovered, whatever became of it.

    `probabilities` has one entry a network, or none where nothing was scored. No host, time, rank or attempt in it.
    """

    study_key: str
    patient_key: str
    status: Status
    reason: str = ""
    warnings: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    series_key: str = ""
    n_files: int = 0
    label: str = ""
    facts: Facts = field(default_factory=Facts)
    slices: tuple[ScoredSlice, ...] = ()
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which code, data, networks and settings made a result."""

    code_version: str
    configuration_sha256: str
    manifest_sha256: str
    weights_sha256: tuple[str, ...]
    engine: str
    precision: str
    key_fingerprint: str
    libraries: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """What indexing found outside any study: all files by number, and the excluded ones by reason."""

    n_files: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One journal record: `result` for a study, or `found` for the archive as a whole.

    `input` is the digest of the study's manifest entry, `tries` counts transient failures; `seconds` a stage and `ended` (Unix
    time) serve the report and never reach the tables.
    """

    result: StudyResult | None = None
    found: Found | None = None
    input: str = ""
    tries: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    ended: float = 0.0
