"""Studies in which one thing is odd or broken, each with what screening must say of it."""

from __future__ import annotations

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, SecondaryCaptureImageStorage, generate_uid

from pipeline.phantom.images import Change, Images, each, kernel_of, stored_of, to_bytes, without

JPEG_2000 = "1.2.840.10008.1.2.4.90"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.53"


def _raw(keyword: str, text: str) -> Change:
    """A decimal string as it should never stand in a file."""

    def change(images: Images) -> Images:
        for image in images:
            element = image[keyword]
            image.pop(keyword)
            image.add_new(element.tag, "LO", text)
        return images

    return change


def copied(image: FileDataset) -> FileDataset:
    """Another object with the same content."""
    return dcmread(to_bytes(image))


def _duplicated(images: Images) -> Images:
    return [*images, copied(images[0]), copied(images[3])]


def _second_acquisition(images: Images) -> Images:
    again = [copied(image) for image in images]
    for image in again:
        image.SOPInstanceUID = generate_uid(entropy_srcs=[image.SOPInstanceUID, "again"])
        image.AcquisitionNumber = 2
    return each(AcquisitionNumber=1)(images) + again


def _one_small(images: Images) -> Images:
    image = images[5]
    half = stored_of(image)[::2, ::2]
    image.Rows, image.Columns = half.shape
    image.PixelData = half.tobytes()
    return images


def _localizer_inside(images: Images) -> Images:
    extra = copied(images[0])
    extra.SOPInstanceUID = generate_uid(entropy_srcs=[extra.SOPInstanceUID, "localizer"])
    extra.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return [*images, extra]


def _by_place(images: Images) -> Images:
    return sorted(images, key=lambda image: float(image.ImagePositionPatient[2]))


def _gap(images: Images) -> Images:
    ordered = _by_place(images)
    return ordered[:10] + ordered[12:]


def _sheared(images: Images) -> Images:
    for image in images:
        x, y, z = map(float, image.ImagePositionPatient)
        image.ImagePositionPatient = [x, round(y + z * np.tan(np.radians(20)), 3), z]
    return images


def _prone_feet_first(images: Images) -> Images:
    """Stored as the scanner sees it: both axes of the picture run the other way."""
    for image in images:
        image.PixelData = np.ascontiguousarray(stored_of(image)[::-1, ::-1]).tobytes()
        x, y, z = map(float, image.ImagePositionPatient)
        far = float(image.PixelSpacing[0]) * (int(image.Rows) - 1)
        image.ImagePositionPatient = [x + far, y + far, z]
        image.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        image.PatientPosition = "FFP"
    return images


def _truncated(images: Images) -> Images:
    for image in images[: len(images) // 2]:
        image.PixelData = image.PixelData[: len(image.PixelData) // 2]
    return images


def _doubled(images: Images) -> Images:
    for image in images:
        image.PixelData = image.PixelData * 2
    return images


def _flipped_sign(images: Images) -> Images:
    """Signed values below zero, declared unsigned."""
    for image in images:
        stored = stored_of(image).astype(np.int32) + int(image.RescaleIntercept)
        image.PixelData = stored.astype("<i2").tobytes()
        image.RescaleIntercept = 0
        image.PixelRepresentation = 0
        image.BitsStored = 16
        image.HighBit = 15
        image.pop("PixelPaddingValue", None)
    return images


def _codestream(syntax: str, *, factor: int = 1, tail: bytes = b"\x55" * 200) -> Change:
    """A JPEG 2000 header of `factor` times the size, with nothing sound behind it."""

    def change(images: Images) -> Images:
        for image in images:
            size = b"".join((factor * int(value)).to_bytes(4, "big") for value in (image.Columns, image.Rows))
            image.PixelData = encapsulate([b"\xff\x4f\xff\x51\x00\x29\x00\x00" + size + bytes(8) + tail])
            image["PixelData"].VR = "OB"
            image["PixelData"].is_undefined_length = True
            image.file_meta.TransferSyntaxUID = UID(syntax)
        return images

    return change


def _no_lungs(images: Images) -> Images:
    """Soft tissue where the lungs were, air around: what an abdomen is to the mask."""
    for image in images:
        stored = stored_of(image).copy()
        y, x = np.ogrid[-1 : 1 : image.Rows * 1j, -1 : 1 : image.Columns * 1j]
        stored[(x / 0.72) ** 2 + (y / 0.5) ** 2 < 1] = 60 - int(image.RescaleIntercept)
        image.PixelData = stored.tobytes()
    return images


def _other_kernel_inside(images: Images) -> Images:
    """A second reconstruction under the same series UID."""
    again = [copied(image) for image in images]
    for image in again:
        image.SOPInstanceUID = generate_uid(entropy_srcs=[image.SOPInstanceUID, "kernel"])
        image.ConvolutionKernel = kernel_of(image, sharp=image.ConvolutionKernel != kernel_of(image, sharp=True))
    return images + again


ODD: dict[str, tuple[str, str, Change]] = {
    "localizer-inside": ("OK_WITH_WARNINGS", "", _localizer_inside),
    "duplicates": ("OK_WITH_WARNINGS", "", _duplicated),
    "second-acquisition": ("OK_WITH_WARNINGS", "", _second_acquisition),
    "two-kernels-one-series": ("OK_WITH_WARNINGS", "", _other_kernel_inside),
    "one-small-matrix": ("OK_WITH_WARNINGS", "", _one_small),
    "one-sop-uid": ("OK_WITH_WARNINGS", "", each(SOPInstanceUID="2.25.1234567890")),
    "two-slices-removed": ("OK_WITH_WARNINGS", "", _gap),
    "sheared": ("OK_WITH_WARNINGS", "", _sheared),
    "monochrome1": ("OK_WITH_WARNINGS", "", each(PhotometricInterpretation="MONOCHROME1")),
    "placeholder-1": ("OK_WITH_WARNINGS", "", each(PatientID="ANONYMOUS")),
    "placeholder-2": ("OK_WITH_WARNINGS", "", each(PatientID="ANONYMOUS")),
    "prone-feet-first": ("OK", "", _prone_feet_first),
    "no-instance-numbers": ("OK", "", each(InstanceNumber=1)),
    "localizer-only": ("EXCLUDED", "LOCALIZER_ONLY", each(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
    "coronal": ("EXCLUDED", "NOT_AXIAL", each(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])),
    "reformat": ("OK_WITH_WARNINGS", "", each(ImageType=["DERIVED", "SECONDARY", "MPR"])),
    "captures-only": ("EXCLUDED", "NO_CT", each(SOPClassUID=SecondaryCaptureImageStorage)),
    "few-slices": ("EXCLUDED", "TOO_FEW_SLICES", lambda images: images[:3]),
    "no-geometry": ("EXCLUDED", "MISSING_GEOMETRY", without("ImagePositionPatient")),
    "zero-orientation": ("EXCLUDED", "MISSING_GEOMETRY", each(ImageOrientationPatient=[0, 0, 0, 0, 0, 0])),
    "decimal-comma": ("EXCLUDED", "INVALID_VALUE", _raw("PixelSpacing", "0,75\\0,75")),
    "spacing-zero": ("EXCLUDED", "INVALID_VALUE", each(PixelSpacing=[0, 0])),
    "slope-zero": ("EXCLUDED", "NOT_HU", each(RescaleSlope=0)),
    "no-rescale": ("EXCLUDED", "NOT_HU", without("RescaleSlope", "RescaleIntercept")),
    "no-pixels": ("EXCLUDED", "NO_PIXEL_DATA", without("PixelData")),
    "doubled-pixels": ("EXCLUDED", "PIXEL_FORMAT", _doubled),
    "no-decoder": ("EXCLUDED", "UNSUPPORTED_TRANSFER_SYNTAX", _codestream(JPEG_EXTENDED)),
    "no-lungs": ("EXCLUDED", "NO_LUNG_FOUND", _no_lungs),
    "truncated": ("FAILED", "TRUNCATED_PIXEL_DATA", _truncated),
    "bad-codestream": ("FAILED", "DECODE_ERROR", _codestream(JPEG_2000)),
    "huge-codestream": ("FAILED", "DECOMPRESSION_BOMB", _codestream(JPEG_2000, factor=500)),
    "flipped-sign": ("FAILED", "PIXELS_SIGN", _flipped_sign),
    "projection": ("EXCLUDED", "REFORMATTED", each(ImageType=["DERIVED", "SECONDARY", "MIP"])),
}
"""What a study is -> (expected status, expected reason, how its images are changed)."""
