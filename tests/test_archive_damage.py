"""Damaged codestreams that decoders take without an error are found by what the code and its values say of each other."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID

from pipeline.archive import Decoder, list_folder, read_volume, scan_file
from pipeline.archive._decode_child import is_harmless
from pipeline.archive.lossless_jpeg import is_consistent
from pipeline.archive.reading import read_frames
from pipeline.errors import StudyError
from pipeline.phantom.chest import chest
from pipeline.records import SliceSource
from tests.fabricate import images, indexed, phantom, verdict, write

BASE = "1.2.840.10008.1.2"
J2K = partial(imagecodecs.jpeg2k_encode, codecformat="j2k", bitspersample=12)


@dataclass(frozen=True)
class Codec:
    """What encodes words of `bits`, each of which is `slope` HU."""

    syntax: str
    encode: Callable
    bits: int = 12
    slope: float = 1.0


CODECS = {
    "JPEG Lossless, 12 bits": Codec(".4.70", partial(imagecodecs.ljpeg_encode, bitspersample=12)),
    "JPEG Lossless, 16 bits": Codec(".4.57", partial(imagecodecs.ljpeg_encode, bitspersample=16)),
    "JPEG 2000, lossless": Codec(".4.90", partial(J2K, level=0, reversible=True)),
    "JPEG 2000, lossy": Codec(".4.91", partial(J2K, level=50, reversible=False)),
    "JPEG-LS": Codec(".4.80", imagecodecs.jpegls_encode),
    "lossy JPEG, 12 bits": Codec(".4.51", partial(imagecodecs.jpeg8_encode, level=90, bitspersample=12)),
    "lossy JPEG, 12 bits, coarse": Codec(".4.51", partial(imagecodecs.jpeg8_encode, level=60, bitspersample=12)),
    "lossy JPEG, 8 bits": Codec(".4.50", partial(imagecodecs.jpeg8_encode, level=90), 8, 8.0),
    "lossy JPEG, 8 bits, coarse": Codec(".4.50", partial(imagecodecs.jpeg8_encode, level=60), 8, 8.0),
    "lossy JPEG, a window of 8 bits": Codec(".4.50", partial(imagecodecs.jpeg8_encode, level=75), 8, 6.0),
}
GROSS_HU, GROSS_SHARE = 50, 0.01
GOAL = 0.9


@pytest.fixture(scope="module")
def decoder():
    with Decoder() as decoder:
        yield decoder


def hu_slices(n_phantoms, *, matrix):
    """One slice of each phantom, in HU."""
    for seed in range(n_phantoms):
        yield chest(seed, "healthy", matrix=matrix, slices=3).hu[1]


def words_of(hu, codec):
    """The words that hold HU in the codec's depth; the window of 6 HU a value cuts bone off."""
    words = np.clip((hu.astype(int) + 1024) // codec.slope, 0, (1 << codec.bits) - 1)
    return words.astype(np.uint8 if codec.bits == 8 else np.uint16)


def source(words, codec):
    rows, columns = words.shape
    depth = {"bits_allocated": 8 if codec.bits == 8 else 16, "bits_stored": codec.bits, "high_bit": codec.bits - 1}
    return SliceSource(
        "x", 0.0, rows=rows, columns=columns, signed=False, syntax=BASE + codec.syntax, slope=codec.slope, **depth
    )


def flipped(code, seed):
    """The codestream with one bit flipped, anywhere."""
    dice, damaged = random.Random(seed), bytearray(code)
    damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def fate(code, header, sound, decoder):
    """Of a mutant: "failed" in the decoder, else "minor", or grossly wrong and "found" (refused or doubted) or "missed"."""
    try:
        words = decoder.child.ask(code, header.syntax).words
    except StudyError:
        return "failed"
    if words.shape == sound.shape and (np.abs(words - sound) * header.slope > GROSS_HU).mean() <= GROSS_SHARE:
        return "minor"
    try:
        return "found" if decoder.decode(code, header).is_damaged else "missed"
    except StudyError:
        return "found"


def fates(codec, slices, n_mutants, decoder):
    """What becomes of mutants of slices in HU, and how many sound slices are "touched"."""
    counts = Counter({"failed": 0, "minor": 0, "found": 0, "missed": 0, "touched": 0})
    for place, hu in enumerate(slices):
        words = words_of(hu, codec)
        code, header = bytes(codec.encode(words)), source(words, codec)
        sound = decoder.decode(code, header)
        counts["touched"] += sound.is_damaged
        for number in range(n_mutants):
            counts[fate(flipped(code, f"{place} {number}"), header, sound.values, decoder)] += 1
    return counts


def check(counts):
    print(dict(counts))
    assert counts["touched"] == 0
    assert counts["found"] >= GOAL * (counts["found"] + counts["missed"])


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_grossly_wrong_mutants_are_found_and_sound_slices_untouched(codec, decoder):
    counts = fates(codec, hu_slices(16, matrix=256), 50, decoder)
    check(counts)
    assert counts["failed"] + counts["found"] > 0


@pytest.fixture(scope="module")
def five_hundred():
    return list(hu_slices(500, matrix=256))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_of_five_hundred_phantoms_none_is_touched_and_their_gross_mutants_are_found(codec, five_hundred, decoder):
    check(fates(codec, five_hundred, 3, decoder))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.real_data
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_no_slice_of_the_real_series_is_touched(codec, real_data, decoder):
    _, studies = indexed(real_data / "covid-ct-md")
    assert len(studies) == 3
    counts = Counter()
    for study in studies:
        series = study.candidates[0]
        volume = read_volume(real_data / "covid-ct-md", series, range(0, len(series.slices), 10), decoder)
        counts.update(fates(codec, volume.hu, 5, decoder))
    check(counts)


# ---- JPEG Lossless: values and length ----


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (37, 53)], ids=str)
def test_a_sound_codestream_of_any_size_and_depth_agrees_with_its_values(shape, bits):
    words = np.random.default_rng(bits).integers(0, 1 << bits, shape).astype(np.uint8 if bits == 8 else np.uint16)
    code = bytes(imagecodecs.ljpeg_encode(words, bitspersample=bits))
    assert is_consistent(code, words.astype(np.int32))
    assert is_consistent(code + b"\0", words.astype(np.int32))
    assert is_consistent(code.replace(b"\xff\xd9", b"\xff\xff\xff\xd9"), words.astype(np.int32))


def test_other_values_or_another_length_do_not():
    words = np.random.default_rng(1).integers(0, 4096, (40, 40)).astype(np.uint16)
    code = bytes(imagecodecs.ljpeg_encode(words, bitspersample=12))
    sound = words.astype(np.int32)
    assert not is_consistent(code[:-2] + bytes(8) + code[-2:], sound)
    assert not is_consistent(code[:-40] + code[-2:], sound)
    assert not is_consistent(code, np.where(sound == sound.max(), 4096, sound))
    assert not is_consistent(code, sound[::-1])
    assert not is_consistent(code[:12], sound)


@pytest.mark.real_data
@pytest.mark.parametrize("syntax", ["Process14TransferSyntax", "Process14SV1TransferSyntax"])
def test_the_codestream_of_another_encoder_agrees_with_its_values(syntax, real_data):
    (path,) = (real_data / "transfer-syntaxes").glob(f"*{syntax}*")
    frame = next(generate_frames(dcmread(path).PixelData, number_of_frames=1))
    words = np.asarray(imagecodecs.ljpeg_decode(frame)).astype(np.int32)
    assert is_consistent(frame, words)


# ---- JPEG 2000: where code-blocks end ----


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["CT1_J2KR", "CT2_J2KR"])
def test_a_sound_slice_that_another_encoder_wrote_is_not_doubted(name, real_data, decoder):
    """Kakadu leaves out the last bytes of code-blocks that every decoder puts there by itself; in the second, three."""
    root = real_data / "transfer-syntaxes"
    file = next(file for file in list_folder(root, "")[1] if file.path == name)
    (header,) = scan_file(root, file).records[-1].headers
    (frame,) = read_frames(root, [header.source])
    pixels = decoder.decode(frame, header.source)
    assert np.array_equal(pixels.values, dcmread(root / name).pixel_array)
    assert not pixels.is_damaged


LOSSLESS_J2K, LOSSY_J2K = BASE + ".4.90", BASE + ".4.91"


@pytest.mark.parametrize(
    ("said", "syntax", "harmless"),
    [
        ("PTERM check failure: 4 synthesized 0xFF markers read", LOSSLESS_J2K, True),
        ("PTERM check failure: 5 synthesized 0xFF markers read", LOSSLESS_J2K, False),
        ("PTERM check failure: 15 synthesized 0xFF markers read", LOSSY_J2K, True),
        ("PTERM check failure: 16 synthesized 0xFF markers read", LOSSY_J2K, False),
        ("PTERM check failure: 3 remaining bytes in code block (40 used / 43)", LOSSLESS_J2K, False),
        ("Non conformant codestream TPsot==TNsot.", LOSSLESS_J2K, True),
        ("tile 1 is truncated", LOSSLESS_J2K, False),
    ],
)
def test_what_openjpeg_says_of_sound_code_is_no_damage(said, syntax, harmless):
    assert is_harmless(f"JPEG2K warning: {said}".encode(), syntax) == harmless


# ---- RLE: lengths ----


def rle(words):
    """High bytes, then low ones, each row packed alone."""
    planes = [
        b"".join(bytes(imagecodecs.packbits_encode(row.tobytes())) for row in np.uint8(of)) for of in (words >> 8, words & 255)
    ]
    planes = [plane + bytes(len(plane) % 2) for plane in planes]
    return np.array([2, 64, 64 + len(planes[0])] + [0] * 13, "<u4").tobytes() + planes[0] + planes[1]


def test_of_flipped_bits_in_rle_few_that_matter_pass(decoder):
    codec = Codec(".5", rle)
    fate = Counter()
    for place, hu in enumerate(hu_slices(4, matrix=128)):
        words = words_of(hu, codec)
        header, code = source(words, codec), rle(words)
        assert np.array_equal(decoder.decode(code, header).values, words)
        for number in range(75):
            try:
                got = decoder.decode(flipped(code, f"{place} {number}"), header).values
                fate["gross" if (np.abs(got - words.astype(int)) > GROSS_HU).mean() > GROSS_SHARE else "minor"] += 1
            except StudyError:
                fate["refused"] += 1
    assert fate["gross"] <= (1 - GOAL) * (fate["gross"] + fate["refused"])
    assert fate["minor"] > fate["refused"] > 0


# ---- through the archive's door ----


def compressed(codec, harm, matrix=32):
    data_sets = images(vendor=2, matrix=matrix)
    for place, data in enumerate(data_sets):
        words = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)
        data.PixelData = encapsulate([harm(bytes(codec.encode(words)), words, place)])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = UID(BASE + codec.syntax)
    return data_sets


def silently_harmed(decode):
    """One bit flipped so that the decoder raises nothing and the values stay those of a CT."""

    def harm(code, words, place):
        for seed in range(1000):
            mutant = flipped(code, f"{place} {seed}")
            try:
                got = np.asarray(decode(mutant)).astype(int)
            except Exception:  # noqa: BLE001  any of the decoder's
                continue
            if got.shape == words.shape and got.max() < 4096 and (np.abs(got - words.astype(int)) > 50).mean() > 0.01:
                return mutant
        raise AssertionError("no bit harms silently")

    return harm


def test_jpeg_lossless_slices_with_one_bit_flipped_each_are_refused(tmp_path):
    write(tmp_path / "a", compressed(CODECS["JPEG Lossless, 16 bits"], silently_harmed(imagecodecs.ljpeg_decode), matrix=128))
    assert verdict(tmp_path / "a")[0] == "DECODE_ERROR"


def damaged_in(n_files, folder):
    """(candidate, places of the damaged): 24 slices of JPEG 2000, one bit flipped in each of the first files."""
    harm = silently_harmed(imagecodecs.jpeg2k_decode)
    codec = CODECS["JPEG 2000, lossless"]
    paths = write(folder, compressed(codec, lambda code, *of: harm(code, *of) if of[1] < n_files else code))
    _, (study,) = indexed(folder)
    harmed = {path.name for path in paths[:n_files]}
    series = study.candidates[0]
    return series, [source.place for source in series.slices if source.path in harmed]


def test_slices_whose_pixels_are_damaged_are_left_out_and_counted(tmp_path, decoder):
    series, damaged = damaged_in(3, tmp_path / "a")
    volume = read_volume(tmp_path / "a", series, range(24), decoder)
    assert [(event.code, event.count) for event in volume.events] == [("PIXELS_DAMAGED", 3)]
    wanted = [place for place in range(24) if place not in damaged]
    assert volume.slice_index.tolist() == wanted
    assert volume.z_mm.tolist() == [series.slices[place].z_mm for place in wanted]
    assert np.array_equal(volume.hu, phantom().hu[wanted])
    more = read_volume(tmp_path / "a", series, damaged[:2], decoder, volume)
    assert (more.hu.shape, more.events[0].count) == ((0, *volume.hu.shape[1:]), 2)


def test_a_series_of_mostly_damaged_slices_is_refused(tmp_path, decoder):
    series, damaged = damaged_in(13, tmp_path / "a")
    with pytest.raises(StudyError) as caught:
        read_volume(tmp_path / "a", series, range(24), decoder)
    assert caught.value.reason == "PIXELS_DAMAGED"
    half = [place for place in range(24) if place not in damaged[:2]]
    assert len(read_volume(tmp_path / "a", series, half, decoder).hu) == 11


@pytest.mark.parametrize("name", ["JPEG Lossless, 12 bits", "JPEG 2000, lossless", "JPEG-LS"])
def test_sound_slices_are_read_without_a_word(name, tmp_path, decoder):
    write(tmp_path / "a", compressed(CODECS[name], lambda code, *_: code + bytes(len(code) % 2)))
    _, (study,) = indexed(tmp_path / "a")
    volume = read_volume(tmp_path / "a", study.candidates[0], range(24), decoder)
    assert volume.events == ()
    assert np.array_equal(volume.hu, phantom().hu)
