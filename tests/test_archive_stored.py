"""Header values and pixels are compared in one form: every sign, BitsStored, HighBit, padding, codestream and rescale."""

import itertools

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from pipeline.archive import Decoder, codestream, read_volume
from pipeline.archive.stored import stored_pixels
from pipeline.archive.volume import rescaled
from pipeline.errors import StudyError
from pipeline.records import SliceSource
from tests.fabricate import N_SLICES, hu_of, images, indexed, phantom, verdict, write

SIGNS = {"unsigned": False, "signed": True}
FIELDS = [(16, 16, 15), (16, 12, 11), (16, 12, 15), (16, 12, 13), (16, 15, 14), (16, 15, 15), (8, 8, 7), (8, 6, 5), (8, 6, 7)]
"""BitsAllocated, BitsStored, HighBit."""
CORNER = (slice(0, 4), slice(0, 4))


def source(allocated, stored, high, signed, **header):
    return SliceSource("x", 0.0, bits_allocated=allocated, bits_stored=stored, high_bit=high, signed=signed, **header)


def span(bits, signed):
    """Every value that so many bits can hold."""
    return np.arange(-(1 << bits - 1), 1 << bits - 1) if signed else np.arange(1 << bits)


def in_words(values, allocated, stored, high):
    """What a writer puts into the file: the value's bits at their place, its sign in all bits above it."""
    return (values << (high + 1 - stored)) & ((1 << allocated) - 1)


@pytest.mark.parametrize("signed", SIGNS.values(), ids=SIGNS)
@pytest.mark.parametrize("field", FIELDS, ids=str)
def test_every_value_is_read_from_where_the_header_says_it_stands(field, signed):
    values = span(field[1], signed)
    pixels = stored_pixels(in_words(values, *field).astype(np.int32), source(*field, signed))
    assert np.array_equal(pixels.values, values)
    assert not pixels.outside.any()


@pytest.mark.parametrize("field", [field for field in FIELDS if field[0] > field[1]], ids=str)
def test_a_sign_need_not_stand_in_the_bits_above_the_value(field):
    values = span(field[1], signed=True)
    words = in_words(values & ((1 << field[1]) - 1), *field)
    assert np.array_equal(stored_pixels(words.astype(np.int32), source(*field, signed=True)).values, values)


@pytest.mark.parametrize(
    "scale", [(1.0, -1024.0), (2.0, 0.0), (-3.0, 1.0), (0.5, -1024.0), (1.0, 0.25), (32767.0, 1e9), (0.0, 7.0)], ids=str
)
def test_hu_in_whole_numbers_are_those_in_fractions_and_fractions_stay(scale):
    values = np.arange(-(1 << 15), 1 << 16, dtype=np.int32)
    hu = rescaled(values, source(16, 16, 15, signed=True, slope=scale[0], intercept=scale[1]))
    assert np.array_equal(hu, values.astype(np.float64) * scale[0] + scale[1])
    assert (hu.dtype == np.int32) == (scale in [(1.0, -1024.0), (2.0, 0.0), (-3.0, 1.0), (0.0, 7.0)])


def forms(value, bits, signed):
    """How writers put a stored value into the header's 16 bits: with its sign, and some without the bits above it."""
    return {value & 0xFFFF, value & ((1 << bits) - 1)} if signed else {value}


@pytest.mark.parametrize("signed", SIGNS.values(), ids=SIGNS)
@pytest.mark.parametrize("field", FIELDS, ids=str)
@pytest.mark.parametrize("reach", [0, 3])
def test_padding_and_its_range_hide_their_own_values_and_no_others(field, signed, reach):
    values = span(field[1], signed)
    words = in_words(values, *field).astype(np.int32)
    for low in (values[0], values[-1] - reach, values[len(values) // 3]):
        wanted = (values >= low) & (values <= low + reach)
        ends = itertools.product(forms(low, field[1], signed), forms(low + reach, field[1], signed))
        for first, last in ends:
            for one, other in ((first, last), (last, first)) if reach else ((first, None),):
                header = source(*field, signed, padding=int(one), padding_limit=None if other is None else int(other))
                assert np.array_equal(stored_pixels(words, header).outside, wanted)


BEYOND = {
    "unsigned, -2000 of 16 bits": (False, 63536, None, [63536]),
    "unsigned, the word's highest": (False, 65535, None, [65535]),
    "unsigned, a range": (False, 61440, 65535, [61440, 63536, 65535]),
    "unsigned, the range's ends exchanged": (False, 65535, 61440, [61440, 63536, 65535]),
    "signed, the word's lowest": (True, 32768, None, [32768]),
    "signed, a range below all values": (True, 32768, 61440, [32768, 40000, 61440]),
}


@pytest.mark.parametrize(("signed", "padding", "limit", "words"), BEYOND.values(), ids=BEYOND)
@pytest.mark.parametrize(("stored", "high"), [(12, 11), (11, 10)])
def test_padding_beyond_the_stored_bits_is_compared_with_the_whole_word(stored, high, signed, padding, limit, words):
    values = span(stored, signed)
    everything = np.concatenate([words, in_words(values, 16, stored, high)]).astype(np.int32)
    pixels = stored_pixels(everything, source(16, stored, high, signed, padding=padding, padding_limit=limit))
    assert pixels.outside[: len(words)].all()
    assert np.array_equal(pixels.values[~pixels.outside], values[~pixels.outside[len(words) :]])
    assert not pixels.outside[len(words) :][values > -1024].any()


def reason_of(words, header):
    with pytest.raises(StudyError) as caught:
        stored_pixels(np.array(words, np.int32), header)
    return caught.value.reason


@pytest.mark.parametrize("signed", SIGNS.values(), ids=SIGNS)
def test_bits_beside_the_value_that_nothing_explains_are_a_pixel_format(signed):
    assert reason_of([0x1000], source(16, 12, 11, signed)) == "PIXEL_FORMAT"
    assert reason_of([0x1001], source(16, 12, 15, signed)) == "PIXEL_FORMAT"
    assert reason_of([0x7FFF], source(16, 12, 14, signed)) == "PIXEL_FORMAT"


def test_a_sign_in_the_bits_above_unsigned_values_is_a_wrong_sign():
    assert reason_of([40, 0xFC18, 0xFFFF], source(16, 12, 11, signed=False)) == "PIXELS_SIGN"
    assert reason_of([40, 0xFC18, 0x1000], source(16, 12, 11, signed=False)) == "PIXEL_FORMAT"


@pytest.mark.parametrize("high", [0, 10, 16, 65535])
def test_a_high_bit_that_leaves_no_room_for_the_value_is_a_pixel_format(high):
    assert reason_of([0], source(16, 12, high, signed=False)) == "PIXEL_FORMAT"
    assert stored_pixels(np.array([65535]), source(16, 16, high, signed=False)).values == 65535


@pytest.mark.parametrize("signed", SIGNS.values(), ids=SIGNS)
def test_overlay_planes_in_unused_bits_are_no_part_of_the_value(signed):
    values = span(12, signed)
    words = in_words(values & 0xFFF, 16, 12, 11) | np.where(np.arange(4096) % 3, 0x5000, 0)
    pixels = stored_pixels(words.astype(np.int32), source(16, 12, 11, signed, overlays=0x5000))
    assert np.array_equal(pixels.values, values)


CODES = {
    (False, 12, True, 16): lambda values: values & 0xFFF,
    (False, 12, True, 12): lambda values: values & 0xFFF,
    (True, 12, True, 16): lambda values: values,
    (True, 16, True, 12): lambda values: values,
    (False, 16, True, 12): lambda values: values & 0xFFFF,
    (True, 12, False, 16): lambda values: np.where(values > 2047, values - 4096, values),
    (True, 13, False, 12): lambda values: values,
    (False, 12, False, 16): lambda values: values,
    (False, 16, False, 12): lambda values: values,
}
"""(sign, depth of the codestream; sign, BitsStored of the header) -> what a decoder gives for 12 bits of values."""


@pytest.mark.parametrize(("code", "decoded"), CODES.items(), ids=map(str, CODES))
def test_a_codestream_of_another_sign_or_depth_gives_the_values_that_were_meant(code, decoded):
    code_signed, depth, signed, stored = code
    values = span(12, signed)
    own = codestream.Codestream(1, 4096, depth, code_signed)
    pixels = stored_pixels(decoded(values).astype(np.int32), source(16, stored, stored - 1, signed), own)
    assert np.array_equal(pixels.values, values)
    assert pixels.is_doubtful == (code_signed != signed and depth < stored)


def test_a_codestream_deeper_than_the_word_is_a_pixel_format():
    with pytest.raises(StudyError, match="PIXEL_FORMAT"):
        stored_pixels(np.zeros(1, np.int32), source(8, 8, 7, signed=False), codestream.Codestream(1, 1, 12))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_codestream_says_its_size_depth_and_sign(bits):
    kind = np.uint8 if bits == 8 else np.uint16
    pixels = np.arange(6 * 5, dtype=kind).reshape(6, 5)
    wanted = codestream.Codestream(6, 5, bits)
    assert codestream.codestream(imagecodecs.jpegls_encode(pixels)) == codestream.Codestream(6, 5, 8 if bits == 8 else 16)
    assert codestream.codestream(imagecodecs.ljpeg_encode(pixels, bitspersample=bits)) == wanted
    assert codestream.codestream(imagecodecs.jpeg2k_encode(pixels, bitspersample=bits, codecformat="j2k")) == wanted
    signed = imagecodecs.jpeg2k_encode(pixels.astype(np.int16), codecformat="j2k")
    assert codestream.codestream(signed) == codestream.Codestream(6, 5, 16, signed=True)
    assert codestream.codestream(b"\xff\x4f\xff\x51" + bytes(20)) is None


# ---- through the archive's door ----


def hu_stored(data, hu):
    """Hounsfield units as the slice stores them."""
    return np.rint((hu - float(data.RescaleIntercept)) / float(data.RescaleSlope)).astype(np.int32)


def rewritten(change, **elements):
    """The fabricated series with `change(place, stored values)` as words, and elements set."""
    data_sets = images(vendor=2)
    for data in data_sets:
        values = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns).astype(np.int32)
        for keyword, value in elements.items():
            setattr(data, keyword, value)
        data.PixelData = (change(data, values) & 0xFFFF).astype("<u2").tobytes()
    return data_sets


def read(folder):
    _, (study,) = indexed(folder)
    return hu_of(folder, study), study


def in_corner(_, values, word):
    values[CORNER] = word
    return values


@pytest.mark.parametrize(("signed", "padding"), [(0, 63536), (0, 4095), (1, -2048), (1, -32768)])
def test_padding_is_air_whether_or_not_it_fits_the_stored_bits(signed, padding, tmp_path):
    def change(data, values):
        data.RescaleIntercept = -1000 * (1 - signed)
        data.add_new(0x00280120, "SS" if signed else "US", padding)
        return in_corner(data, values - 1000 * signed, padding)

    write(tmp_path / "a", rewritten(change, BitsStored=12, HighBit=11, PixelRepresentation=signed))
    hu, study = read(tmp_path / "a")
    wanted = phantom().hu.copy()
    wanted[:, *CORNER] = -1024
    assert np.array_equal(hu, wanted)
    assert not study.candidates[0].events


def test_padding_that_was_cut_to_the_stored_bits_is_a_pixel_format(tmp_path):
    """Nothing tells it from bone any more."""

    def change(_, values):
        values[[0, 0, -1, -1], [0, -1, 0, -1]] = 63536 & 0xFFF
        return values

    write(tmp_path / "a", rewritten(change, BitsStored=12, HighBit=11, PixelPaddingValue=63536))
    assert verdict(tmp_path / "a")[0] == "PIXEL_FORMAT"


def test_a_range_of_padding_is_air(tmp_path):
    def change(_, values):
        values[CORNER] = np.arange(61440, 61456).reshape(4, 4)
        return values

    data_sets = rewritten(change, PixelPaddingValue=61440, PixelPaddingRangeLimit=61455)
    write(tmp_path / "a", data_sets)
    wanted = phantom().hu.copy()
    wanted[:, *CORNER] = -1024
    assert np.array_equal(read(tmp_path / "a")[0], wanted)


def test_values_in_the_upper_part_of_the_word_are_shifted_down(tmp_path):
    write(tmp_path / "a", rewritten(lambda _, values: values << 4, BitsStored=12, HighBit=15))
    assert np.array_equal(read(tmp_path / "a")[0], phantom().hu)


def test_a_high_bit_that_the_pixels_belie_is_a_pixel_format(tmp_path):
    write(tmp_path / "a", rewritten(lambda _, values: values, BitsStored=12, HighBit=15))
    assert verdict(tmp_path / "a")[0] == "PIXEL_FORMAT"


def test_an_overlay_in_the_words_upper_bits_is_passed_over(tmp_path):
    def change(data, values):
        data.add_new(0x60020102, "US", 14)
        return in_corner(data, values, 0x4000 | 24)

    write(tmp_path / "a", rewritten(change, BitsStored=12, HighBit=11))
    assert np.array_equal(read(tmp_path / "a")[0][:, 5:], phantom().hu[:, 5:])


def test_slope_and_intercept_are_each_slices_own(tmp_path):
    numbers = iter(range(N_SLICES))

    def change(data, values):
        number = next(numbers)
        data.RescaleSlope, data.RescaleIntercept = (0.5, 1, 2)[number % 3], -1024 - number
        return hu_stored(data, values - 1000)

    write(tmp_path / "a", rewritten(change, BitsStored=16, HighBit=15))
    off = np.abs(read(tmp_path / "a")[0].astype(int) - phantom().hu)
    assert off.max() <= 1
    assert all(off[k].max() == 0 for k in range(N_SLICES) if (off[k] == 0).mean() > 0.9)


def in_j2k(data_sets, encode):
    for data in data_sets:
        hu = np.frombuffer(data.PixelData, "<i2").reshape(data.Rows, data.Columns)
        data.PixelData = encapsulate([bytes(encode(hu))])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.90")
    return data_sets


J2K_FORMS = {
    "unsigned codestream, signed header": (1, lambda hu: (hu & 0xFFF).astype(np.uint16), {"bitspersample": 12}),
    "signed codestream, signed header": (1, lambda hu: hu, {}),
}


@pytest.mark.parametrize(("signed", "words", "options"), J2K_FORMS.values(), ids=J2K_FORMS)
def test_jpeg_2000_of_either_sign_gives_the_same_hu(signed, words, options, tmp_path):
    data_sets = rewritten(
        lambda _, values: values - 1000, RescaleIntercept=0, PixelRepresentation=signed, BitsStored=16, HighBit=15
    )
    encode = {"level": 0, "reversible": True, "codecformat": "j2k", **options}
    write(tmp_path / "a", in_j2k(data_sets, lambda hu: imagecodecs.jpeg2k_encode(words(hu), **encode)))
    assert np.array_equal(read(tmp_path / "a")[0], phantom().hu)


def test_a_codestream_of_which_both_signs_give_a_body_is_refused(tmp_path):
    """Few bone pixels: with 12 bits unsigned under a signed header of 16 nothing tells which reading is meant."""
    data_sets = rewritten(
        lambda _, values: np.where(values > 2047, 2050, values),
        RescaleIntercept=-1000,
        PixelRepresentation=1,
        BitsStored=16,
        HighBit=15,
    )
    options = {"level": 0, "reversible": True, "codecformat": "j2k", "bitspersample": 12}
    write(tmp_path / "a", in_j2k(data_sets, lambda hu: imagecodecs.jpeg2k_encode(hu.astype(np.uint16), **options)))
    assert verdict(tmp_path / "a")[0] == "PIXELS_SIGN"


def test_a_narrow_codestream_without_values_of_its_highest_bit_is_read(tmp_path):
    data_sets = rewritten(
        lambda _, values: np.minimum(values, 2047), RescaleIntercept=-1000, PixelRepresentation=1, BitsStored=16, HighBit=15
    )
    options = {"level": 0, "reversible": True, "codecformat": "j2k", "bitspersample": 12}
    write(tmp_path / "a", in_j2k(data_sets, lambda hu: imagecodecs.jpeg2k_encode(hu.astype(np.uint16), **options)))
    assert np.array_equal(read(tmp_path / "a")[0], np.minimum(phantom().hu, 1047))


# ---- what no chest has ----


def rods(hu):
    """Metal of many values in 0.4 % of the pixels, away from the corners."""

    def change(data, values):
        values[20:22, 15:17] = hu + 1000 + np.arange(4).reshape(2, 2) * 37
        return values

    return change


@pytest.mark.parametrize(("bits", "hu"), [(16, 8000), (16, 30000), (16, 60000), (14, 8000), (15, 20000)])
def test_metal_on_an_extended_scale_is_clipped_with_a_warning(bits, hu, tmp_path):
    write(tmp_path / "a", rewritten(rods(hu), BitsStored=bits, HighBit=bits - 1))
    assert verdict(tmp_path / "a") == ("", set())
    wanted = phantom().hu.copy()
    wanted[:, 20:22, 15:17] = 3071
    assert np.array_equal(read(tmp_path / "a")[0], wanted)


def test_metal_is_counted_in_slices(tmp_path):
    write(tmp_path / "a", rewritten(rods(8000), BitsStored=16, HighBit=15))
    _, (study,) = indexed(tmp_path / "a")
    with Decoder() as decoder:
        volume = read_volume(tmp_path / "a", study.candidates[0], range(N_SLICES), decoder)
    assert [(event.code, event.count) for event in volume.events] == [("HU_CLIPPED", N_SLICES)]


def test_more_metal_than_tissue_is_implausible(tmp_path):
    def change(_, values):
        values[::2] = 20000 + np.arange(16 * 32).reshape(16, 32)
        return values

    write(tmp_path / "a", rewritten(change, BitsStored=16, HighBit=15))
    assert verdict(tmp_path / "a")[0] == "PIXELS_IMPLAUSIBLE"


WRONG = {
    "signed values called unsigned": (
        lambda _, values: values - 1000,
        {"RescaleIntercept": 0, "BitsStored": 16, "HighBit": 15},
    ),
    "the same in 12 bits, sign extended": (
        lambda _, values: values - 1000,
        {"RescaleIntercept": 0, "BitsStored": 12, "HighBit": 11},
    ),
    "the same in 12 bits alone": (
        lambda _, values: (values - 1000) & 0xFFF,
        {"RescaleIntercept": 0, "BitsStored": 12, "HighBit": 11},
    ),
    "unsigned values called signed": (lambda _, values: values, {"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11}),
    "signed padding alone, in one corner": (
        lambda data, values: in_corner(data, values, -2000),
        {"BitsStored": 16, "HighBit": 15},
    ),
}


@pytest.mark.parametrize(("change", "header"), WRONG.values(), ids=WRONG)
def test_a_wrong_sign_is_told_from_a_wrong_rescale(change, header, tmp_path):
    write(tmp_path / "a", rewritten(change, **header))
    assert verdict(tmp_path / "a")[0] == "PIXELS_SIGN"


def test_a_missing_intercept_is_no_wrong_sign(tmp_path):
    write(tmp_path / "a", rewritten(lambda _, values: values, RescaleIntercept=1000))
    assert verdict(tmp_path / "a")[0] == "PIXELS_IMPLAUSIBLE"


@pytest.mark.parametrize("n_bytes", [0, 2, 30, 62])
def test_bytes_that_fill_the_pixels_up_are_passed_over(n_bytes, tmp_path):
    data_sets = images()
    for data in data_sets:
        data.PixelData += bytes(n_bytes)
    write(tmp_path / "a", data_sets)
    _, (study,) = indexed(tmp_path / "a")
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


def test_a_row_of_pixels_too_many_is_a_pixel_format(tmp_path):
    data_sets = images()
    for data in data_sets:
        data.PixelData += bytes(2 * data.Columns)
    write(tmp_path / "a", data_sets)
    assert verdict(tmp_path / "a")[0] == "PIXEL_FORMAT"


def test_nothing_but_air_is_implausible(tmp_path):
    data_sets = images()
    for data in data_sets:
        data.RescaleSlope = -1
    write(tmp_path / "a", data_sets)
    assert verdict(tmp_path / "a")[0] == "PIXELS_IMPLAUSIBLE"


def test_an_image_of_no_frames_is_one_of_one(tmp_path):
    data_sets = images()
    for data in data_sets:
        data.NumberOfFrames = 0
    write(tmp_path / "a", data_sets)
    _, (study,) = indexed(tmp_path / "a")
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)
