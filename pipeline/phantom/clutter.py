"""What stands beside the main series in real studies: localizers, other kernels, thick slices, reformats, dose screens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
from pydicom.dataset import FileDataset
from pydicom.uid import EnhancedSRStorage, SecondaryCaptureImageStorage

from pipeline.phantom.chest import Phantom
from pipeline.phantom.images import Images, each, series, without

SECOND_KERNEL, THICK, DUPLICATES = range(3)


def extra_series(phantom: Phantom, name: str, number: int) -> Iterator[tuple[str, Images]]:
    """(folder, images) that stand beside patient `number`'s main series, none of which may be chosen or change its status."""
    yield "LOC", localizers(phantom, name)
    yield "COR", coronal(phantom, name)
    yield "DOSE", [dose_screen(phantom, name), dose_report(phantom, name)]
    if number % 3 == SECOND_KERNEL:
        yield "KERNEL", second_kernel(phantom, name)
    elif number % 3 == THICK:
        yield "THICK", thick(phantom, name)


def localizers(phantom: Phantom, name: str) -> Images:
    """Two projections, marked as localizers."""
    images = series(_part(phantom, slice(0, 2)), name, kind="localizer")
    return each(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])(images)


def second_kernel(phantom: Phantom, name: str) -> Images:
    """The same slices with the vendor's other kernel; the soft one is smoother."""
    hu = phantom.hu
    if phantom.sharp:
        hu = np.stack([cv2.GaussianBlur(image, (3, 3), 0) for image in hu])
    return series(replace(phantom, hu=hu, sharp=not phantom.sharp), name, kind="kernel")


def thick(phantom: Phantom, name: str) -> Images:
    """Pairs of slices, averaged."""
    n = len(phantom.hu) // 2 * 2
    hu = phantom.hu[:n].reshape(n // 2, 2, *phantom.hu.shape[1:]).mean(axis=1).astype(np.int16)
    return series(replace(_part(phantom, slice(0, n, 2)), hu=hu), name, kind="thick")


def coronal(phantom: Phantom, name: str) -> Images:
    """A coronal reformat of a few planes."""
    rows = np.linspace(0.3, 0.7, 8) * phantom.hu.shape[1]
    planes = np.ascontiguousarray(phantom.hu[::-1, rows.astype(int)].transpose(1, 0, 2))
    z_mm = np.arange(len(planes), dtype=float)
    images = series(replace(_part(phantom, slice(0, len(planes))), hu=planes, z_mm=z_mm), name, kind="coronal")
    return each(ImageOrientationPatient=[1, 0, 0, 0, 0, -1], ImageType=["DERIVED", "SECONDARY", "REFORMATTED"])(images)


def dose_screen(phantom: Phantom, name: str) -> FileDataset:
    """A colour screen capture, as dose reports come."""
    (image,) = series(_part(phantom, slice(0, 1)), name, kind="dose")
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    image.ImageType = ["DERIVED", "SECONDARY", "DOSE_INFO"]
    image.BurnedInAnnotation = "YES"
    image.SamplesPerPixel = 3
    image.PhotometricInterpretation = "RGB"
    image.PlanarConfiguration = 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    image.Rows = image.Columns = 64
    image.PixelData = bytes(64 * 64 * 3)
    image.pop("PixelPaddingValue", None)
    return image


def dose_report(phantom: Phantom, name: str) -> FileDataset:
    """A structured report: no pixels."""
    (image,) = series(_part(phantom, slice(0, 1)), name, kind="report")
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedSRStorage
    return without("PixelData", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns")([image])[0]


def _part(phantom: Phantom, part: slice) -> Phantom:
    """Some of the slices; at least two places, so that a thickness can be told."""
    z_mm = phantom.z_mm[part] if len(phantom.z_mm[part]) > 1 else phantom.z_mm[:2]
    return replace(phantom, hu=phantom.hu[part], lung=phantom.lung[part], lesion=phantom.lesion[part], z_mm=z_mm)
