"""One phantom -> the slices of a valid CT Image Storage series, with its vendor's quirks.

Identifying tags carry invented canaries, so that a test can look for them in every output.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from pipeline.phantom.chest import Phantom

Images = list[FileDataset]
Change = Callable[[Images], Images]

VENDORS = (
    ("SIEMENS", "SOMATOM phantom", "B30f", "B70f", 0, -1024),
    ("GE MEDICAL SYSTEMS", "LightSpeed phantom", "STANDARD", "LUNG", 1, -1024),
    ("Philips", "Brilliance phantom", "B", "L", 0, -1000),
    ("TOSHIBA", "Aquilion phantom", "FC10", "FC52", 1, 0),
)
"""Maker, model, soft kernel, sharp kernel, PixelRepresentation (1: signed 16 bits, 0: unsigned 12 bits), intercept."""
GE_PADDING = -2000

PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")
BIG_ENDIAN = "1.2.840.10008.1.2.2"
CODECS: dict[str, Callable[..., bytes | bytearray]] = {
    "1.2.840.10008.1.2.4.57": imagecodecs.ljpeg_encode,
    "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_encode,
    "1.2.840.10008.1.2.4.90": partial(imagecodecs.jpeg2k_encode, level=0, reversible=True, codecformat="j2k"),
}
"""Encoders that pydicom lacks."""


def series(phantom: Phantom, name: str, *, kind: str = "axial") -> list[FileDataset]:
    """The slices of one phantom as data sets, uncompressed, in no anatomical order."""
    order = np.random.default_rng(len(name)).permutation(len(phantom.hu))
    return [_image(phantom, int(i), number, name, kind) for number, i in enumerate(order)]


def stored_of(image: FileDataset) -> npt.NDArray[Any]:
    """The stored values of an uncompressed slice [rows, columns]."""
    kind = "<i2" if image.PixelRepresentation else "<u2"
    return np.frombuffer(image.PixelData, kind).reshape(image.Rows, image.Columns)


def kernel_of(image: FileDataset, *, sharp: bool) -> str:
    """The vendor's name of a sharp or soft kernel."""
    return next((vendor[3] if sharp else vendor[2]) for vendor in VENDORS if vendor[0] == image.Manufacturer)


def compress(image: FileDataset, syntax: str) -> None:
    """Write the slice's pixels in another transfer syntax, losslessly."""
    stored = stored_of(image)
    if syntax in CODECS:
        code = bytes(CODECS[syntax](stored.view(np.uint16)))
        image.PixelData = encapsulate([code + bytes(len(code) % 2)])
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
    elif syntax == BIG_ENDIAN:
        image.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    elif syntax not in PLAIN:
        image.compress(UID(syntax), generate_instance_uid=False)
    image.file_meta.TransferSyntaxUID = UID(syntax)


def to_bytes(image: FileDataset) -> BytesIO:
    """The slice as a file in memory."""
    buffer = BytesIO()
    dcmwrite(buffer, image, enforce_file_format=True)
    buffer.seek(0)
    return buffer


def each(**values: Any) -> Change:
    """Set elements in every slice."""

    def change(images: Images) -> Images:
        for image in images:
            for keyword, value in values.items():
                setattr(image, keyword, value)
        return images

    return change


def without(*keywords: str) -> Change:
    """Leave elements out of every slice."""

    def change(images: Images) -> Images:
        for image in images:
            for keyword in keywords:
                delattr(image, keyword)
        return images

    return change


def _image(phantom: Phantom, i: int, number: int, name: str, kind: str) -> FileDataset:
    def uid(*parts: object) -> UID:
        return generate_uid(entropy_srcs=["drenet phantom", name, *map(str, parts)])

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = uid(kind, i)
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = uid(kind, i)
    data.Modality = "CT"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.StudyInstanceUID = uid("study")
    data.SeriesInstanceUID = uid("series", kind)
    data.FrameOfReferenceUID = uid("frame")
    data.SeriesNumber = 2
    data.InstanceNumber = number + 1
    _identify(data, name)
    _place(data, phantom, i)
    _expose(data, phantom, i)
    return data


def _identify(data: FileDataset, name: str) -> None:
    """Everything that names a person or a place, invented."""
    data.PatientName = f"CANARYNAME^{name}"
    data.PatientID = f"CANARYID-{name}"
    data.PatientBirthDate = "19010203"
    data.PatientSex = "O"
    data.AccessionNumber = "CANARYACC"
    data.InstitutionName = "CANARYHOSPITAL"
    data.StudyDescription = "CANARYSTUDY"
    data.SeriesDescription = "CANARYSERIES"
    data.ReferringPhysicianName = "CANARYDOCTOR"
    data.StudyDate = "20200203"
    data.StudyTime = "040506"
    data.StudyID = "CANARYSID"


def _place(data: FileDataset, phantom: Phantom, i: int) -> None:
    data.SliceThickness = round(float(phantom.z_mm[1] - phantom.z_mm[0]), 3)
    data.ImagePositionPatient = [-170.0, -170.0, round(float(phantom.z_mm[i]), 3)]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [round(phantom.spacing_mm[0], 5), round(phantom.spacing_mm[1], 5)]
    data.PatientPosition = "HFS"


def _expose(data: FileDataset, phantom: Phantom, i: int) -> None:
    """Pixels as the vendor stores them."""
    maker, model, soft, sharp, signed, intercept = VENDORS[phantom.vendor]
    data.Manufacturer = maker
    data.ManufacturerModelName = model
    data.ConvolutionKernel = sharp if phantom.sharp else soft
    data.KVP = 120
    data.Rows, data.Columns = phantom.hu.shape[1:]
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated = 16
    data.BitsStored = 16 if signed else 12
    data.PixelRepresentation = signed
    data.HighBit = data.BitsStored - 1
    data.RescaleSlope = 1
    data.RescaleIntercept = intercept
    data.RescaleType = "HU"
    stored = phantom.hu[i].astype(np.int32) - intercept
    if maker.startswith("GE"):
        data.PixelPaddingValue = GE_PADDING
        stored[_outside_circle(*stored.shape)] = GE_PADDING
    data.PixelData = stored.astype("<i2").tobytes() if signed else stored.clip(0, 4095).astype("<u2").tobytes()


def _outside_circle(rows: int, columns: int) -> npt.NDArray[np.bool_]:
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    return np.asarray(y**2 + x**2 > 1)
