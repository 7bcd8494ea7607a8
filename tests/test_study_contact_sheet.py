"""The contact sheet: one tile a slice read and one a slice seen, outlined and legible."""

import cv2
import numpy as np
import pytest

from pipeline.config import Config
from pipeline.records import Volume
from pipeline.study.contact_sheet import COLUMNS, TILE, YELLOW, contact_sheet, write_contact_sheet
from pipeline.study.slices import prepare


@pytest.fixture
def study():
    """Seven slices with two square lungs, the first and last without."""
    hu = np.full((7, 200, 200), 40, np.int16)
    masks = np.zeros(hu.shape, bool)
    masks[1:6, 50:150, 30:90] = masks[1:6, 50:150, 110:170] = True
    hu[masks] = -850
    volume = Volume(hu, np.arange(7) * 20.0, np.arange(7, dtype=np.int32), (1.6, 1.6), n_series=7)
    return volume, masks, prepare(volume, masks, 1, Config())


def test_every_slice_read_and_every_slice_seen_has_its_tile(study):
    sheet = contact_sheet(*study)
    assert sheet.shape[1] // TILE == COLUMNS
    rows = -(-7 // COLUMNS) + -(-5 // COLUMNS)
    assert rows * TILE < sheet.shape[0] < (rows + 1) * TILE


def test_the_outline_is_drawn_on_slices_with_lung_only(study):
    volume, masks, prepared = study
    drawn = (contact_sheet(*study) == YELLOW).all(axis=2).sum()
    assert drawn > 5 * 4 * 100
    assert (contact_sheet(volume, np.zeros_like(masks), prepared) == YELLOW).all(axis=2).sum() == 0


def test_kept_and_left_out_slices_are_labelled_in_their_own_colours(study):
    sheet = contact_sheet(*study).reshape(-1, 3).astype(int)
    assert (sheet[:, 2] - sheet[:, 0] > 150).any()  # orange: left out
    assert (sheet.min(axis=1) > 240).any()  # white: kept


def test_the_picture_is_written_whole(study, tmp_path):
    write_contact_sheet(tmp_path / "images" / "key.png", *study)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["key.png"]
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "images" / "key.png")), contact_sheet(*study))
