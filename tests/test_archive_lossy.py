"""Damage to lossy JPEG is found, whatever the encoder; nothing that an encoder or a person drew is taken for damage."""

import io
import random
from functools import cache

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image

from pipeline.archive import Decoder, lossy_jpeg
from pipeline.archive.codestream import codestream
from pipeline.archive.lossy_jpeg import has_step, read_lossy
from pipeline.phantom.chest import chest
from pipeline.records import SliceSource


@pytest.fixture(scope="module")
def decoder():
    with Decoder() as decoder:
        yield decoder


@cache
def grey(matrix=64, seed=1):
    """A slice in 8 bits of 8 HU."""
    return np.clip(chest(seed, "healthy", matrix=matrix, slices=3).hu[1] // 8 + 128, 0, 255).astype(np.uint8)


def by_pillow(values, **options):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", **options)
    return file.getvalue()


def by_opencv(values, restart_every=0):
    return cv2.imencode(".jpg", values, [cv2.IMWRITE_JPEG_RST_INTERVAL, restart_every])[1].tobytes()


def of_12_bits(values):
    return bytes(imagecodecs.jpeg8_encode(values.astype(np.uint16) * 16, level=85, bitspersample=12))


def doubted(code, decoder):
    """Whether an 8-bit or 12-bit code is held damaged, through the seam that all frames pass."""
    head = codestream(code)
    depth = {"bits_allocated": 8 if head.bits == 8 else 16, "bits_stored": head.bits, "high_bit": head.bits - 1}
    syntax = f"1.2.840.10008.1.2.4.{50 if head.bits == 8 else 51}"
    return decoder.decode(
        code, SliceSource("x", 0.0, rows=head.rows, columns=head.columns, signed=False, syntax=syntax, **depth)
    ).is_damaged


ENCODERS = {
    "libjpeg": by_pillow,
    "tables of its own": lambda values: by_pillow(values, optimize=True),
    "finest": lambda values: by_pillow(values, quality=100),
    "coarsest": lambda values: by_pillow(values, quality=5),
    "progressive": lambda values: by_pillow(values, progressive=True),
    "restarts by the row": lambda values: by_opencv(values, 8),
    "restarts at odd places": lambda values: by_opencv(values, 3),
    "filled up to its last marker": lambda values: by_pillow(values)[:-2] + b"\xff\xff\xff\xd9",
    "12 bits": of_12_bits,
}


@pytest.mark.parametrize("shape", [(64, 64), (61, 59), (8, 8), (1, 1), (9, 3), (3, 40), (33, 16)], ids=str)
@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_sound_codes_of_any_encoder_and_size_are_read_as_they_are_and_not_doubted(encode, shape, decoder):
    values = np.ascontiguousarray(grey()[: shape[0], : shape[1]])
    for picture in (values, np.full_like(values, 128), np.zeros_like(values), values.max() - values):
        code = encode(picture)
        assert not doubted(code, decoder)
        words, _ = read_lossy(code, lambda part: decoder.child.ask(part, "1.2.840.10008.1.2.4.50").words, 8.0)
        np.testing.assert_array_equal(words, imagecodecs.jpeg8_decode(code))


@pytest.mark.parametrize("restart_every", [0, 3])
def test_a_code_without_its_end_is_doubted(restart_every, decoder):
    code = by_opencv(grey(), restart_every)
    assert not doubted(code + b"\0", decoder)
    assert doubted(code[: len(code) * 3 // 4], decoder)
    assert doubted(code[:-2], decoder)


@pytest.mark.parametrize("change", [(b"\xff\xd1", b""), (b"\xff\xd2", b"\xff\xd5")], ids=["lost", "of another number"])
def test_a_restart_marker_that_is_lost_or_out_of_order_is_doubted(change, decoder):
    code = by_opencv(grey(), 3)
    assert change[0] in code
    assert doubted(code.replace(*change, 1), decoder)


@pytest.mark.parametrize("encode", [by_pillow, of_12_bits])
def test_code_that_is_cut_before_its_end_or_goes_on_behind_it_is_doubted(encode, decoder):
    code = encode(grey())
    for lost in (3, 10, 100):
        assert doubted(code[: -2 - lost] + code[-2:], decoder)
    assert doubted(code[:-2] + code[-200:], decoder)


@pytest.mark.parametrize("amount", [-90, -12, 12, 60])
def test_a_slice_that_is_off_from_a_block_on_is_doubted_but_not_when_a_straight_edge_is_all(amount):
    values = grey(matrix=256, seed=4).astype(np.int32) + 100
    for column in range(2, 31, 3):
        shifted = values.copy()
        blocks = shifted[: 32 * 8].reshape(32, 8, 32, 8)
        blocks[9, :, column:] += amount
        blocks[10:] += amount
        assert has_step(np.clip(shifted, 0, 4095), 8.0)
    straight = values.copy()
    straight[80:] += amount
    assert not has_step(straight, 8.0)
    assert not has_step(values, 8.0)


def drawn_upon(values, dice):
    """Boxes, bars and letters, most of them where blocks begin."""
    drawn, size = values.copy(), values.shape[0]
    for _ in range(dice.randrange(1, 4)):
        grid = dice.choice([8, 8, 1])
        top, bottom = sorted(dice.randrange(size) // grid * grid for _ in range(2))
        left, right = sorted(dice.randrange(size) // grid * grid for _ in range(2))
        tone = dice.randrange(256)
        place = dice.choice([np.s_[top:bottom, left:right], np.s_[:bottom], np.s_[top:], np.s_[top:bottom], np.s_[top:, left:]])
        if dice.random() < 0.3:
            cv2.putText(drawn, "R 12:34 kV", (left, bottom), 0, dice.uniform(0.4, 2), tone, 2)
        else:
            drawn[place] = tone
    return drawn


def test_marks_boxes_and_bars_drawn_into_the_pixels_are_not_taken_for_damage(decoder):
    dice = random.Random(3)
    values = [grey(matrix=256, seed=seed) for seed in range(4)]
    doubts = [
        doubted(by_pillow(drawn_upon(values[turn % 4], dice), quality=dice.choice([50, 75, 95])), decoder)
        for turn in range(120)
    ]
    assert not any(doubts)


def test_values_beyond_the_depth_are_doubted_though_the_decoder_cuts_them_off(decoder, monkeypatch):
    """Air at 0 less an amount is 0 again: neither a step nor a wrong length can be seen."""
    values = np.zeros((64, 64), np.uint8)
    values[20:30, 20:44] = 120
    code = by_pillow(values)
    dice = random.Random(2)
    mutants = [flipped(code, dice) for _ in range(150)]
    found = sum(doubted(mutant, decoder) for mutant in mutants)
    monkeypatch.setattr(lossy_jpeg, "_is_beyond_depth", lambda *_: False)
    assert sum(doubted(mutant, decoder) for mutant in mutants) < found


def flipped(code, dice):
    """One bit of the coded data flipped, away from its markers."""
    start = code.index(b"\xff\xda") + 10
    places = [place for place in range(start, len(code) - 2) if 0xFF not in code[place - 1 : place + 1]]
    mutant = bytearray(code)
    mutant[dice.choice(places)] ^= 1 << dice.randrange(8)
    return bytes(mutant)
