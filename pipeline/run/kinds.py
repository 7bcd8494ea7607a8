"""Kinds of files that are not what was hoped for: by how their names end, in an archive without CT."""

from __future__ import annotations

from collections.abc import Mapping

KINDS = {
    "NIfTI": (".nii", ".nii.gz"),
    "MetaImage, NRRD or Analyze": (".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".img"),
    "gzipped DICOM": (".dcm.gz", ".dicom.gz", ".ima.gz"),
    "gzipped": (".gz",),
    "containers that cannot be read": (".7z", ".rar", ".bz2", ".xz", ".zst"),
}
OTHER = "other"


def kind_of(name: str) -> str:
    """The kind of a file or of a container's member called `name`: the first that fits."""
    lower = name.lower()
    return next((kind for kind, ends in KINDS.items() if lower.endswith(ends)), OTHER)


def counted(kinds: Mapping[str, int]) -> str:
    """The kinds with their numbers, the known ones first: "2 NIfTI, 1 other"."""
    return ", ".join(f"{kinds[kind]:,} {kind}" for kind in (*KINDS, OTHER) if kinds.get(kind))
