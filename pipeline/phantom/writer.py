"""Phantoms -> an archive as hospitals keep them, with the truth of what screening must say of each study.

The archive is `folder`; beside it stands `folder-truth` with truth.csv and the masks. With `clutter` come the things that real
archives hold (clutter.py, odd.py).
"""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import FileDataset

from pipeline.errors import ConfigurationError
from pipeline.phantom.chest import LABELS, Phantom, chest
from pipeline.phantom.clutter import DUPLICATES, extra_series
from pipeline.phantom.images import compress, series, to_bytes
from pipeline.phantom.lesions import Label
from pipeline.phantom.odd import ODD

SYNTAXES = {
    "rle": "1.2.840.10008.1.2.5",
    "jpeg-lossless": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
    "deflated": "1.2.840.10008.1.2.1.99",
}
MIN_SLICES = 24
"""Fewer slices make an archive whose patients are EXCLUDED as TOO_FEW_SLICES (20 positions are needed, some are spare)."""
ODD_MATRIX = 128
ODD_SLICES = 26


@dataclass(frozen=True, slots=True)
class TruthRow:
    """One row of truth.csv: what screening must say of a study."""

    patient_id: str
    study_uid: str
    label: str
    expected_status: str
    expected_reason: str
    n_files: int
    what: str


def write_archive(  # noqa: PLR0913  the options of `drenet phantom`, all with defaults
    folder: Path, *, studies: int = 12, matrix: int = 512, slices: int = 40, seed: int = 0, compress: str | None = None,
    clutter: bool = False,
) -> list[TruthRow]:  # fmt: skip
    """Write `studies` synthetic patients of three classes in turn, and return the truth that was written beside them."""
    syntax = _syntax(compress)
    truth_folder = folder.with_name(folder.name + "-truth")
    (truth_folder / "masks").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(studies):
        label = LABELS[number % len(LABELS)]
        phantom = chest(1000 * seed + number, label, matrix=matrix, slices=slices)
        images = series(phantom, f"{seed}-{number}")
        row = _patient(folder / f"CANARYFOLDER{number:04d}", images, label, syntax)
        if clutter:
            row = _cluttered(folder / f"CANARYFOLDER{number:04d}", phantom, number, row)
        masks: dict[str, Any] = {"lung": phantom.lung, "lesion": phantom.lesion, "z_mm": phantom.z_mm}
        np.savez_compressed(truth_folder / "masks" / f"{row.study_uid}.npz", **masks)
        rows.append(row)
    if clutter:
        rows += _odd_studies(folder / "CANARYNESTED" / "deep", seed)
        _stray_files(folder / "CANARYNESTED")
    with (truth_folder / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(TruthRow.__dataclass_fields__)
        writer.writerows(astuple(row) for row in rows)
    return rows


def _patient(folder: Path, images: list[FileDataset], label: Label, syntax: str | None) -> TruthRow:
    """A patient's study with its one series."""
    write_series(folder / "CT", images, syntax)
    status, reason = ("OK", "") if len(images) >= MIN_SLICES else ("EXCLUDED", "TOO_FEW_SLICES")
    return replace(_truth(images, status, reason, "patient"), label=label)


def _cluttered(folder: Path, phantom: Phantom, number: int, row: TruthRow) -> TruthRow:
    """The patient's study with what else a study holds; every third one with copies of two slices."""
    n_files = row.n_files
    status = row.expected_status
    for kind, extra in extra_series(phantom, row.patient_id.removeprefix("CANARYID-"), number):
        write_series(folder / kind, extra, suffix="")
        n_files += len(extra)
    if number % 3 == DUPLICATES:
        for name in ("IM00000.dcm", "IM00003.dcm"):
            shutil.copyfile(folder / "CT" / name, folder / f"COPY-{name}")
        n_files = n_files + 2
        status = "OK_WITH_WARNINGS" if status == "OK" else status
    return replace(row, n_files=n_files, expected_status=status)


def _odd_studies(folder: Path, seed: int) -> list[TruthRow]:
    """One study for each thing that goes wrong, each in its folder; then sound ones in unusual wrappings."""
    phantom = chest(1000 * seed + 500, "healthy", matrix=ODD_MATRIX, slices=ODD_SLICES)
    rows = []
    for number, (what, (status, reason, change)) in enumerate(ODD.items()):
        images = change(series(phantom, f"{seed}-odd-{number}"))
        write_series(folder / what, images, suffix="" if number % 2 else ".dcm")
        rows.append(_truth(images, status, reason, what))
    return rows + _wrapped(folder, phantom, f"{seed}")


def _wrapped(folder: Path, phantom: Phantom, name: str) -> list[TruthRow]:
    """In a ZIP, in a TAR, deflated, a second study of that patient, as exported pictures."""
    zipped, tarred, deflated, again = (series(phantom, f"{name}-{what}") for what in ("zip", "tar", "deflated", "again"))
    with zipfile.ZipFile(folder / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n, image in enumerate(zipped):
            archive.writestr(f"CANARYMEMBER/IM{n:04d}", to_bytes(image).getvalue())
    _write_tar(folder / "study.tar.gz", tarred)
    write_series(folder / "deflated", deflated, SYNTAXES["deflated"])
    for image in again:
        image.PatientID = deflated[0].PatientID
    write_series(folder / "again", again)
    pictures = folder / "CANARYPICTURES"
    pictures.mkdir()
    for n, hu in enumerate(phantom.hu):
        cv2.imwrite(str(pictures / f"slice{n}.png"), np.clip(np.rint((hu + 1000.0) / 3.0), 0, 255).astype(np.uint8))
    below_archive = pictures.relative_to(folder.parents[1]).as_posix()
    return [
        _truth(zipped, "OK", "", "zip"),
        _truth(tarred, "OK", "", "tar.gz"),
        _truth(deflated, "OK", "", "deflated"),
        _truth(again, "OK", "", "second study of one patient"),
        TruthRow(below_archive, below_archive, "healthy", "OK_WITH_WARNINGS", "", len(phantom.hu), "pictures"),
    ]


def _truth(images: list[FileDataset], status: str, reason: str, what: str) -> TruthRow:
    return TruthRow(str(images[0].PatientID), images[0].StudyInstanceUID, "healthy", status, reason, len(images), what)


def _write_tar(path: Path, images: Iterable[FileDataset]) -> None:
    with gzip.open(path, "wb", compresslevel=1) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for n, image in enumerate(images):
            data = to_bytes(image).getvalue()
            entry = tarfile.TarInfo(f"CANARYMEMBER/IM{n:04d}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _stray_files(folder: Path) -> None:
    """Files that belong to no study."""
    (folder / "README.txt").write_text("not an image\n", encoding="utf-8")
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "garbage.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff\x13garbage" * 40)
    (folder / "loop").unlink(missing_ok=True)
    (folder / "loop").symlink_to(folder.parent.absolute(), target_is_directory=True)
    (folder / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(100))


def _syntax(compress: str | None) -> str | None:
    if compress is None or compress in SYNTAXES.values():
        return compress
    if compress not in SYNTAXES:
        raise ConfigurationError(f"cannot compress as {compress!r}: choose one of {', '.join(SYNTAXES)}")
    return SYNTAXES[compress]


def write_series(folder: Path, images: list[FileDataset], syntax: str | None = None, *, suffix: str = ".dcm") -> None:
    """The images of one series as files of `folder`, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        if syntax is not None:
            compress(image, syntax)
        dcmwrite(folder / f"IM{number:05d}{suffix}", image, enforce_file_format=True)
