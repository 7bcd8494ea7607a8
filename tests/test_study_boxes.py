"""Boxes hit the phantom's lesions in the stored image as they do in network coordinates, however the image is stored."""

from dataclasses import astuple

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive import Decoder, read_volume
from pipeline.config import Config
from pipeline.phantom.chest import chest
from pipeline.phantom.images import series, stored_of
from pipeline.records import Box, Detail, SlicePrediction
from pipeline.study.boxes import to_original, within
from pipeline.study.lungs import lung_masks
from pipeline.study.pool import study_result
from pipeline.study.slices import prepare
from tests.fabricate import indexed, write

MATRIX, N_SLICES = 128, 24


def _columns_reversed(image, lesion):
    x, y, z = image.ImagePositionPatient
    image.ImagePositionPatient = [x + (image.Columns - 1) * image.PixelSpacing[1], y, z]
    image.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    return _store(image, stored_of(image)[:, ::-1]), lesion[:, ::-1]


def _rows_reversed(image, lesion):
    x, y, z = image.ImagePositionPatient
    image.ImagePositionPatient = [x, y + (image.Rows - 1) * image.PixelSpacing[0], z]
    image.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
    return _store(image, stored_of(image)[::-1]), lesion[::-1]


def _turned(image, lesion):
    image.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    return _store(image, stored_of(image).T), lesion.T


def _half_the_rows(image, lesion):
    x, y, z = image.ImagePositionPatient
    fine = float(image.PixelSpacing[0])
    image.ImagePositionPatient, image.PixelSpacing = [x, y + fine / 2, z], [2 * fine, fine]
    stored = stored_of(image)
    return _store(image, (stored[::2] // 2 + stored[1::2] // 2)), (lesion[::2] + lesion[1::2]) / 2


def _both(image, lesion):
    return _columns_reversed(*_half_the_rows(image, lesion))


def _store(image, pixels):
    image.PixelData = np.ascontiguousarray(pixels.astype(stored_of(image).dtype)).tobytes()
    image.Rows, image.Columns = pixels.shape
    return image


def _plain(image, lesion):
    return image, lesion


@pytest.fixture(scope="module")
def phantom():
    return chest(3, "covid-like", matrix=MATRIX, slices=N_SLICES, severity=1.0)


def _boxes(lesion, draw):
    """Six boxes in network pixels: the tight one, and five thrown at random, some of them over the edge."""
    rows, columns = np.flatnonzero(lesion.any(axis=1)), np.flatnonzero(lesion.any(axis=0))
    tight = Box(float(rows[0]), float(columns[0]), float(rows[-1] + 1), float(columns[-1] + 1))
    thrown = [Box(y, x, y + side, x + side) for y, x, side in draw.uniform([-60, -60, 48], [380, 380, 192], (5, 3)).tolist()]
    return [tight, *thrown]


def _share(weight, box):
    """The share of the lesion that lies in a box; pixels that a box cuts count in part."""
    down, across = (
        np.clip(np.minimum(last, np.arange(n) + 1) - np.maximum(first, np.arange(n)), 0, 1)
        for first, last, n in zip((box.top, box.left), (box.bottom, box.right), weight.shape, strict=True)
    )
    return float(down @ weight @ across / weight.sum())


@pytest.mark.parametrize("stored_as", [_plain, _columns_reversed, _rows_reversed, _turned, _half_the_rows, _both])
def test_boxes_hit_lesions_in_the_stored_image_as_in_network_coordinates(stored_as, phantom, tmp_path):
    images = sorted(series(phantom, "boxes"), key=lambda image: float(image.ImagePositionPatient[2]))
    pairs = [stored_as(image, lesion.astype(float)) for image, lesion in zip(images, phantom.lesion, strict=True)]
    write(tmp_path / "archive", [image for image, _ in pairs])
    _, (study,) = indexed(tmp_path / "archive")
    candidate = study.candidates[0]
    with Decoder() as decoder:
        volume = read_volume(tmp_path / "archive", candidate, range(len(candidate.slices)), decoder)
    config = Config()
    prepared = prepare(volume, lung_masks(volume.hu, volume.z_mm, volume.spacing_mm, "chest-wall"), 1, config)
    draw = np.random.default_rng(0)
    seen, predictions = [], []
    for index, crop in zip(prepared.slice_index, prepared.crops, strict=True):
        part = phantom.lesion[index, int(crop.top) : int(crop.bottom), int(crop.left) : int(crop.right)].astype(np.float32)
        lesion = cv2.resize(part, (448, 448), interpolation=cv2.INTER_AREA)
        boxes = _boxes(lesion, draw) if lesion.any() else []
        seen.append((lesion, boxes))
        predictions.append([SlicePrediction(0.5, tuple(Detail(box, box, 0.0, 1.0, 1.0, 1.0) for box in boxes))])
    result = study_result(study, candidate, prepared, predictions)
    told = [detail for scored in result.slices for detail in scored.predictions[0].details]
    assert any(abs(edge) in (0, 448) for detail in told for edge in astuple(detail.box))  # some were cut at the border
    assert all(0 <= edge <= 448 for detail in told for edge in astuple(detail.box))
    size = max(pairs[0][1].shape)
    assert all(-1e-6 <= edge <= size + 1e-6 for detail in told for edge in astuple(detail.original))
    gaps, tight = [], []
    for (lesion, _), scored in zip(seen, result.slices, strict=True):
        # what the crop left out is no part of what the network saw
        stored = pairs[scored.slice_index][1] * _inside(scored, prepared, pairs[scored.slice_index][1].shape)
        shares = [(_share(lesion, d.box), _share(stored, d.original)) for d in scored.predictions[0].details]
        gaps += [abs(a - b) for a, b in shares]
        tight += [shares[0][1]] if shares else []
    assert len(tight) >= 5
    assert min(tight) > 0.97
    assert max(gaps) < 0.03


@given(
    st.tuples(*[st.integers(-300, 700)] * 2, *[st.integers(1, 400)] * 2).map(
        lambda e: Box(e[0] / 1, e[1] / 1, (e[0] + e[2]) / 1, (e[1] + e[3]) / 1)
    ),
    st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(61, 128)] * 2),
    st.sampled_from(
        [(1, 0, 0, 0, 1, 0), (-1, 0, 128, 0, 1, 0), (1, 0, 0, 0, -1, 128), (0, 1, 0, 1, 0, 0), (0.5, 0, 0, 0, 1, 0)]
    ),
)
def test_a_box_never_leaves_its_picture_nor_the_stored_image(box, crop, affine):
    inside = within(box, 448)
    assert 0 <= inside.top <= inside.bottom <= 448
    assert 0 <= inside.left <= inside.right <= 448
    stored = to_original(inside, Box(*map(float, crop)), 448, affine)
    assert -1e-9 <= stored.top <= stored.bottom <= 128 + 1e-9
    assert -1e-9 <= stored.left <= stored.right <= 128 + 1e-9


def _inside(scored, prepared, shape):
    """Which stored pixels the network saw."""
    row = prepared.slice_index.tolist().index(scored.slice_index)
    box = to_original(Box(0.0, 0.0, 448.0, 448.0), prepared.crops[row], 448, prepared.original_affine)
    inside = np.zeros(shape)
    inside[round(box.top) : round(box.bottom), round(box.left) : round(box.right)] = 1
    return inside
