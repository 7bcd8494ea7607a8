"""The error tree and the reason codes: every error says who must act.

`ConfigurationError`: the user, before anything starts (exit 2). `StudyError`: one study's input; it is recorded with its
reason and the run goes on. `StorageError` and `DeviceError`: the run stops cleanly and can be resumed (exit 74, 1).
`Drained`: the run was asked to stop in time and wants to be started again (exit 75).
`RankDied`: so does one that lost a rank it cannot do without (exit 76). Messages hold numbers and advice,
never a path of the archive or a header's value.
"""

from __future__ import annotations

from enum import StrEnum

from pipeline.records import Stage


class Reason(StrEnum):
    """Stable reason codes of files, series and studies; docs/reasons.md says what to do about each."""

    FILE_VANISHED = "FILE_VANISHED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    IO_ERROR = "IO_ERROR"
    NOT_REGULAR_FILE = "NOT_REGULAR_FILE"
    SYMLINK_LOOP = "SYMLINK_LOOP"
    EMPTY_FILE = "EMPTY_FILE"
    ARCHIVE_CORRUPT = "ARCHIVE_CORRUPT"
    ARCHIVE_ENCRYPTED = "ARCHIVE_ENCRYPTED"
    ARCHIVE_NESTED = "ARCHIVE_NESTED"
    ARCHIVE_SPARSE = "ARCHIVE_SPARSE"
    UNPACKED = "UNPACKED"
    ZIP_SLIP = "ZIP_SLIP"
    DECOMPRESSION_BOMB = "DECOMPRESSION_BOMB"
    NOT_DICOM = "NOT_DICOM"
    HEADER_CORRUPT = "HEADER_CORRUPT"
    HEADER_TOO_DEEP = "HEADER_TOO_DEEP"
    MISSING_UID = "MISSING_UID"
    PLACEHOLDER_ID = "PLACEHOLDER_ID"
    INVALID_VALUE = "INVALID_VALUE"
    NO_CT = "NO_CT"
    LOCALIZER_ONLY = "LOCALIZER_ONLY"
    NON_IMAGE_ONLY = "NON_IMAGE_ONLY"
    NOT_AXIAL = "NOT_AXIAL"
    REFORMATTED = "REFORMATTED"
    NOT_CHEST = "NOT_CHEST"
    NO_SUITABLE_SERIES = "NO_SUITABLE_SERIES"
    MISSING_GEOMETRY = "MISSING_GEOMETRY"
    MIXED_ORIENTATION = "MIXED_ORIENTATION"
    MIXED_GEOMETRY = "MIXED_GEOMETRY"
    DUPLICATE_SLICES = "DUPLICATE_SLICES"
    UID_CONFLICT = "UID_CONFLICT"
    SLICE_GAP = "SLICE_GAP"
    TOO_FEW_SLICES = "TOO_FEW_SLICES"
    MULTIPLE_STACKS = "MULTIPLE_STACKS"
    GANTRY_TILT = "GANTRY_TILT"
    SERIES_FORBIDDEN = "SERIES_FORBIDDEN"
    LOST_PREFERENCE = "LOST_PREFERENCE"
    LOST_DERIVED = "LOST_DERIVED"
    LOST_EXTENT = "LOST_EXTENT"
    LOST_THICKNESS = "LOST_THICKNESS"
    LOST_KERNEL = "LOST_KERNEL"
    LOST_SPACING = "LOST_SPACING"
    LOST_CONTRAST = "LOST_CONTRAST"
    LOST_SLICES = "LOST_SLICES"
    LOST_UID = "LOST_UID"
    NO_PIXEL_DATA = "NO_PIXEL_DATA"
    TRUNCATED_PIXEL_DATA = "TRUNCATED_PIXEL_DATA"
    PIXEL_FORMAT = "PIXEL_FORMAT"
    NOT_HU = "NOT_HU"
    BURNED_IN = "BURNED_IN"
    UNSUPPORTED_TRANSFER_SYNTAX = "UNSUPPORTED_TRANSFER_SYNTAX"
    DECODE_ERROR = "DECODE_ERROR"
    DECODE_CRASH = "DECODE_CRASH"
    DECODE_TIMEOUT = "DECODE_TIMEOUT"
    PIXELS_IMPLAUSIBLE = "PIXELS_IMPLAUSIBLE"
    PIXELS_SIGN = "PIXELS_SIGN"
    HU_CLIPPED = "HU_CLIPPED"
    GREY_UNKNOWN = "GREY_UNKNOWN"
    PIXELS_DAMAGED = "PIXELS_DAMAGED"
    NO_LUNG_FOUND = "NO_LUNG_FOUND"
    LUNG_TRUNCATED = "LUNG_TRUNCATED"
    LUNG_PLACES = "LUNG_PLACES"
    LUNG_IMPLAUSIBLE = "LUNG_IMPLAUSIBLE"
    NONFINITE_OUTPUT = "NONFINITE_OUTPUT"
    CHECKPOINT_CORRUPT = "CHECKPOINT_CORRUPT"
    CONFIG_INVALID = "CONFIG_INVALID"
    LABEL_MISSING = "LABEL_MISSING"
    LABEL_UNKNOWN = "LABEL_UNKNOWN"
    LABEL_CONFLICT = "LABEL_CONFLICT"
    LABEL_ONE_CLASS = "LABEL_ONE_CLASS"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    WORKER_LOST = "WORKER_LOST"
    INTERNAL_ERROR = "INTERNAL_ERROR"


TRANSIENT = frozenset({Reason.DECODE_TIMEOUT, Reason.IO_ERROR, Reason.WORKER_LOST})
"""Reasons that may be gone at the next try."""


LOST_LIMIT = 2
"""A study that was in hand when its rank died, so many times, is left out: it may be what kills them."""


class PipelineError(Exception):
    """Base of every error that the pipeline raises on purpose."""

    exit_code = 1


class ConfigurationError(PipelineError):
    """The user's request cannot be carried out as written: nothing has been started."""

    exit_code = 2


class StudyError(PipelineError):
    """One study's input cannot be used; `reason` and `stage` go into its row."""

    def __init__(self, reason: Reason, stage: Stage, message: str = "") -> None:
        super().__init__(message or reason.value)
        self.reason = reason
        self.stage = stage


class StorageError(PipelineError):
    """The run's own storage fails (full, read-only, broken): stop, mend it, resume by hand."""

    exit_code = 74


class DeviceError(PipelineError):
    """A rank cannot provide the engine or device that the run was started with."""


class Drained(PipelineError):  # noqa: N818  it is an outcome, not a fault
    """The run stopped early because it was asked to; starting it again goes on where it stopped."""

    exit_code = 75


class RankDied(Exception):  # noqa: N818  it is news of another, not this rank's fault
    """A rank died where the others cannot go on without it; started again, the run resumes."""

    exit_code = 76
