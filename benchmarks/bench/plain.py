"""The plain way to screen studies: a process a study, `python -m benchmarks.bench.plain CHECKPOINT FOLDER`.

It loads the network, reads the whole volume with pydicom, finds the lungs with scikit-image as the published code does, and
computes the network in fp32 as torch runs it. The slices and the rule that keeps them are ours, so that the work is the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pydicom
import torch
from scipy import ndimage
from skimage import filters, measure, morphology, segmentation

from pipeline.config import SliceConfig, WindowConfig
from pipeline.study.drenet import load_checkpoint
from pipeline.study.engine.fast import normalised
from pipeline.study.slices import choose_slices, kept_slices, to_grey


def main() -> None:
    """Print the patient's probability and how many slices it is the mean of."""
    checkpoint, folder = sys.argv[1:]
    torch.set_num_threads(1)
    network = load_checkpoint(checkpoint)
    images, zooms = chosen_slices(Path(folder))
    with torch.inference_mode():
        logits = [
            network(normalised(one[None]), normalised(two[None])).concat_logits for one, two in zip(images, zooms, strict=True)
        ]
    probability = torch.cat(logits).softmax(1)[:, network.metadata.positive].mean()
    print(f"{float(probability):.6f} {len(logits)}")


def chosen_slices(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The kept slices [K, 448, 448] and [K, 600, 600], what is not lung black."""
    headers = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda one: float(one.ImagePositionPatient[2]))
    hu = np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in headers])
    at = choose_slices([float(one.ImagePositionPatient[2]) for one in headers], SliceConfig())
    hu = hu[at].astype(np.int16)
    masks = np.stack([scikit_recipe(image) for image in hu])
    kept = kept_slices(masks.sum(axis=(1, 2)) * float(headers[0].PixelSpacing[0]) ** 2, SliceConfig())
    crops = [_cropped(to_grey(hu[row], WindowConfig()) * masks[row], masks[row]) for row in kept]
    sizes = WindowConfig().image_px, WindowConfig().zoom_px
    images, zooms = (torch.from_numpy(np.stack([cv2.resize(crop, (size, size)) for crop in crops])) for size in sizes)
    return images, zooms


def _cropped(picture: np.ndarray, lung: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero(lung.any(axis=axis)) for axis in (1, 0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def scikit_recipe(image: np.ndarray) -> np.ndarray:
    """The published recipe in scikit-image: the lung of one slice in HU."""
    labels = measure.label(segmentation.clear_border(image < -600))
    regions = sorted(measure.regionprops(labels), key=lambda region: -region.area)[:2]
    mask = np.isin(labels, [region.label for region in regions if region.area >= 3000 * image.size / 512**2])
    mask = ndimage.binary_erosion(mask, morphology.disk(2))
    mask = ndimage.binary_closing(mask, morphology.disk(10))
    return np.asarray(ndimage.binary_fill_holes(filters.roberts(mask.astype(float)) > 0))


if __name__ == "__main__":
    main()
