"""Phantoms -> an archive of valid CT Image Storage series, with the truth of what screening must say of each study.

The archive is `folder`; beside it stands `folder-truth` with truth.csv and the masks. With `clutter` come the things that real
archives hold. Identifying tags carry invented canaries, so that a test can look for them in every output.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from pipeline.errors import ConfigurationError
from pipeline.phantom.chest import LABELS, Phantom, chest

SYNTAXES = {
    "rle": "1.2.840.10008.1.2.5",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
}
VENDORS = (
    ("SIEMENS", "SOMATOM phantom", "B30f", "B70f", 0, -1024),
    ("GE MEDICAL SYSTEMS", "LightSpeed phantom", "STANDARD", "LUNG", 1, -1024),
    ("Philips", "Brilliance phantom", "B", "L", 0, -1000),
    ("TOSHIBA", "Aquilion phantom", "FC10", "FC52", 1, 0),
)
PAD_STORED = -2000


@dataclass(frozen=True, slots=True)
class Truth:
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
) -> list[Truth]:  # fmt: skip
    """Write `studies` synthetic patients of three classes in turn, and return the truth that was written beside them."""
    syntax = _syntax(compress)
    truth_folder = folder.with_name(folder.name + "-truth")
    (truth_folder / "masks").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(studies):
        label = LABELS[number % len(LABELS)]
        phantom = chest(1000 * seed + number, label, matrix=matrix, slices=slices)
        images = series(phantom, f"{seed}-{number}")
        _write(folder / f"CANARYFOLDER{number:04d}" / "CT", images, syntax)
        status = "OK" if slices >= 24 else "EXCLUDED"
        reason = "" if slices >= 24 else "TOO_FEW_SLICES"
        rows.append(Truth(str(images[0].PatientID), images[0].StudyInstanceUID, label, status, reason, len(images), "plain"))
        masks: dict[str, Any] = {"lung": phantom.lung, "lesion": phantom.lesion, "z_mm": phantom.z_mm}
        np.savez_compressed(truth_folder / "masks" / f"{images[0].StudyInstanceUID}.npz", **masks)
    if clutter:
        rows += _clutter(folder, seed, matrix, max(slices, 24))
    with (truth_folder / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Truth.__dataclass_fields__)
        writer.writerows(astuple(row) for row in rows)
    return rows


def series(phantom: Phantom, name: str, *, kind: str = "axial") -> list[FileDataset]:
    """The slices of one phantom as data sets, uncompressed, in no anatomical order."""
    uid = lambda *parts: generate_uid(entropy_srcs=["drenet phantom", name, *map(str, parts)])  # noqa: E731
    order = np.random.default_rng(len(name)).permutation(len(phantom.hu))
    return [_image(phantom, int(i), place, name, uid, kind) for place, i in enumerate(order)]


def _image(phantom: Phantom, i: int, place: int, name: str, uid: Callable[..., UID], kind: str) -> FileDataset:
    maker, model, soft, sharp, signed, intercept = VENDORS[phantom.vendor]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = uid(kind, i)
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, uid(kind, i)
    data.StudyInstanceUID, data.SeriesInstanceUID = uid("study"), uid("series", kind)
    data.FrameOfReferenceUID, data.Modality = uid("frame"), "CT"
    data.PatientName, data.PatientID = f"CANARYNAME^{name}", f"CANARYID-{name}"
    data.PatientBirthDate, data.PatientSex, data.AccessionNumber = "19010203", "O", "CANARYACC"
    data.InstitutionName, data.StudyDescription = "CANARYHOSPITAL", "CANARYSTUDY"
    data.ReferringPhysicianName, data.StudyDate, data.StudyTime = "CANARYDOCTOR", "20200203", "040506"
    data.StudyID, data.SeriesDescription, data.SeriesNumber, data.InstanceNumber = (
        "CANARYSID",
        "CANARYSERIES",
        2,
        place + 1,
    )
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Manufacturer, data.ManufacturerModelName = maker, model
    data.ConvolutionKernel, data.KVP = sharp if phantom.sharp else soft, 120
    data.SliceThickness = round(float(phantom.z_mm[1] - phantom.z_mm[0]), 3)
    data.ImagePositionPatient = [-170.0, -170.0, round(float(phantom.z_mm[i]), 3)]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [round(phantom.spacing_mm[0], 5)] * 2
    data.Rows, data.Columns = phantom.hu.shape[1:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.PixelRepresentation = 16, signed
    data.BitsStored = 16 if signed else 12
    data.HighBit = data.BitsStored - 1
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, intercept, "HU"
    stored = phantom.hu[i].astype(np.int32) - intercept
    if maker.startswith("GE"):
        data.PixelPaddingValue = PAD_STORED
        stored[_outside_circle(stored.shape[0])] = PAD_STORED
    data.PixelData = (stored.clip(0, 4095).astype("<u2") if not signed else stored.astype("<i2")).tobytes()
    return data


def _outside_circle(matrix: int) -> Any:
    y, x = np.ogrid[:matrix, :matrix]
    return (y - matrix / 2) ** 2 + (x - matrix / 2) ** 2 > (matrix / 2) ** 2


def _syntax(compress: str | None) -> str | None:
    if compress is None or compress in SYNTAXES.values():
        return compress
    if compress not in SYNTAXES:
        raise ConfigurationError(f"cannot compress as {compress!r}: choose one of {', '.join(SYNTAXES)}")
    return SYNTAXES[compress]


def _write(folder: Path, images: list[FileDataset], syntax: str | None = None, *, suffix: str = ".dcm") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        if syntax is not None:
            image.compress(UID(syntax), generate_instance_uid=False)
        pydicom.dcmwrite(folder / f"IM{number:05d}{suffix}", image, enforce_file_format=True)


Change = Callable[[list[FileDataset]], list[FileDataset]]


def _clutter(folder: Path, seed: int, matrix: int, slices: int) -> list[Truth]:
    """One study for each thing that real archives hold."""
    rows = []
    for number, (what, (status, reason, change)) in enumerate(CLUTTER.items()):
        name = f"{seed}-clutter-{number}"
        phantom = chest(1000 * seed + 500 + number, "healthy", matrix=matrix, slices=slices)
        images = change(series(phantom, name))
        suffix = "" if number % 2 else ".dcm"
        _write(folder / "CANARYNESTED" / "deep" / f"{what}", images, suffix=suffix)
        rows.append(Truth(str(images[0].PatientID), images[0].StudyInstanceUID, "healthy", status, reason, len(images), what))
    junk = folder / "CANARYNESTED"
    (junk / "README.txt").write_text("not an image\n", encoding="utf-8")
    (junk / "empty.dcm").write_bytes(b"")
    (junk / "garbage.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff\x13garbage" * 40)
    return rows


def _each(**values: Any) -> Change:
    def change(images: list[FileDataset]) -> list[FileDataset]:
        for image in images:
            for keyword, value in values.items():
                setattr(image, keyword, value)
        return images

    return change


def _without(*keywords: str) -> Change:
    def change(images: list[FileDataset]) -> list[FileDataset]:
        for image in images:
            for keyword in keywords:
                delattr(image, keyword)
        return images

    return change


def _duplicated(images: list[FileDataset]) -> list[FileDataset]:
    return [*images, images[0], images[3]]


def _one_small(images: list[FileDataset]) -> list[FileDataset]:
    image = images[5]
    half = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)[::2, ::2]
    image.Rows, image.Columns = half.shape
    image.PixelData = half.tobytes()
    return images


def _with_localizer(images: list[FileDataset]) -> list[FileDataset]:
    extra = pydicom.dcmread(_bytes(images[0]))
    extra.SeriesInstanceUID = generate_uid(entropy_srcs=[str(extra.SeriesInstanceUID), "localizer"])
    extra.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return [*images, extra]


def _bytes(image: FileDataset) -> Any:
    from io import BytesIO

    buffer = BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    buffer.seek(0)
    return buffer


def _truncated(images: list[FileDataset]) -> list[FileDataset]:
    for image in images[: len(images) // 2]:
        image.PixelData = image.PixelData[: len(image.PixelData) // 2]
    return images


def _garbled(images: list[FileDataset]) -> list[FileDataset]:
    from pydicom.encaps import encapsulate

    for image in images:
        codestream = b"\xff\x4f\xff\x51\x00\x29\x00\x00" + int(image.Columns).to_bytes(4, "big")
        codestream += int(image.Rows).to_bytes(4, "big") + bytes(8) + b"\x55" * 200
        image.PixelData = encapsulate([codestream])
        image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
        image.file_meta.TransferSyntaxUID = UID(SYNTAXES["jpeg2000"])
    return images


def _unknown_syntax(images: list[FileDataset]) -> list[FileDataset]:
    images = _garbled(images)
    for image in images:
        image.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.53")
    return images


def _no_lungs(images: list[FileDataset]) -> list[FileDataset]:
    """Soft tissue where the lungs were, air around: what an abdomen is to the mask."""
    for image in images:
        stored = np.frombuffer(image.PixelData, "<i2" if image.PixelRepresentation else "<u2")
        stored = stored.reshape(image.Rows, image.Columns).copy()
        y, x = np.ogrid[-1 : 1 : image.Rows * 1j, -1 : 1 : image.Columns * 1j]
        stored[(x / 0.72) ** 2 + (y / 0.5) ** 2 < 1] = 60 - int(image.RescaleIntercept)
        image.PixelData = stored.tobytes()
    return images


CLUTTER: dict[str, tuple[str, str, Change]] = {
    "localizer-inside": ("OK", "", _with_localizer),
    "duplicates": ("OK_WITH_WARNINGS", "", _duplicated),
    "one-small-matrix": ("OK_WITH_WARNINGS", "", _one_small),
    "one-sop-uid": ("OK_WITH_WARNINGS", "", _each(SOPInstanceUID="2.25.1234567890")),
    "localizer-only": ("EXCLUDED", "LOCALIZER_ONLY", _each(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
    "coronal": ("EXCLUDED", "NOT_AXIAL", _each(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])),
    "reformat": ("EXCLUDED", "NOT_AXIAL", _each(ImageType=["DERIVED", "SECONDARY", "MPR"])),
    "few-slices": ("EXCLUDED", "TOO_FEW_SLICES", lambda images: images[:3]),
    "no-geometry": ("EXCLUDED", "MISSING_GEOMETRY", _without("ImagePositionPatient")),
    "zero-orientation": ("EXCLUDED", "MISSING_GEOMETRY", _each(ImageOrientationPatient=[0, 0, 0, 0, 0, 0])),
    "slope-zero": ("EXCLUDED", "NOT_HU", _each(RescaleSlope=0)),
    "no-pixels": ("EXCLUDED", "NO_PIXEL_DATA", _without("PixelData")),
    "truncated": ("FAILED", "TRUNCATED_PIXEL_DATA", _truncated),
    "bad-codestream": ("FAILED", "DECODE_ERROR", _garbled),
    "no-decoder": ("EXCLUDED", "UNSUPPORTED_TRANSFER_SYNTAX", _unknown_syntax),
    "no-lungs": ("EXCLUDED", "NO_LUNG_FOUND", _no_lungs),
}
