"""Transfer syntaxes: which the door reads, and what decoding them costs."""

from __future__ import annotations

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
PICTURE = "picture"
"""Not a DICOM syntax: an exported JPEG or PNG file."""

NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, BIG_ENDIAN})
COMPRESSED = frozenset(
    f"1.2.840.10008.1.2.{last}"
    for last in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "4.201", "4.202", "4.203", "5")
)
LOSSLESS_JPEG = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in ("57", "70"))
NO_HU = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in ("50", "51"))
"""Lossy JPEG: decodable, but grey values are no longer Hounsfield units to the unit."""

COST = {
    "4.90": 28.0,
    "4.91": 28.0,
    "4.201": 28.0,
    "4.202": 28.0,
    "4.203": 28.0,
    "4.80": 5.0,
    "4.81": 5.0,
    "4.70": 4.0,
    "4.57": 4.0,
}
"""Milliseconds a 512 x 512 slice, relative to about 1 for raw."""
USUAL_SLICES = 15
"""Slices of a study that are read, as the paper has it: a factor that all studies share, so it decides nothing."""
COMPUTE_MS = 20.0
"""Milliseconds that lungs and networks take for a 512 x 512 slice, beside decoding it."""


def study_cost(syntax: str, rows: int, columns: int) -> float:
    """About how many milliseconds a study takes whose slices are like this one, told from its header; for dealing only."""
    decode_ms = COST.get(syntax.removeprefix("1.2.840.10008.1.2."), 1.0)
    return USUAL_SLICES * (COMPUTE_MS + decode_ms) * rows * columns / 512**2
