"""Random CT series as all kinds of writers put them, and the Hounsfield units that each must be read as.

A `Plan` says everything of a series; `write_series` writes it, `wanted_hu` is what was written, in the volume's orientation.
Nothing here uses the code that reads.
"""

import gzip
import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from hypothesis import strategies as st
from pydicom import dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage

BASE = "1.2.840.10008.1.2"
NATIVE = ("", ".1", ".2", ".1.99", ".5")
CODES = {
    ".4.57": lambda words, bits: imagecodecs.ljpeg_encode(words, bitspersample=bits),
    ".4.70": lambda words, bits: imagecodecs.ljpeg_encode(words, bitspersample=bits),
    ".4.80": lambda words, _: imagecodecs.jpegls_encode(words),
    ".4.90": lambda words, bits: imagecodecs.jpeg2k_encode(
        words, level=0, reversible=True, codecformat="j2k", bitspersample=bits
    ),
}
LOSSY = {
    ".4.51": (lambda words, bits: imagecodecs.jpeg8_encode(words, level=95, bitspersample=bits), imagecodecs.jpeg8_decode),
    ".4.81": (lambda words, _: imagecodecs.jpegls_encode(words, level=1), imagecodecs.jpegls_decode),
    ".4.91": (
        lambda words, bits: imagecodecs.jpeg2k_encode(words, level=70, reversible=False, codecformat="j2k", bitspersample=bits),
        imagecodecs.jpeg2k_decode,
    ),
}
"""Encoder and decoder: what is wanted of these is the codec's own decode."""
ORIENTATIONS = (
    (1, 0, 0, 0, 1, 0),
    (-1, 0, 0, 0, -1, 0),
    (1, 0, 0, 0, -1, 0),
    (-1, 0, 0, 0, 1, 0),
    (0, 1, 0, 1, 0, 0),
    (0, 1, 0, -1, 0, 0),
    (0, -1, 0, 1, 0, 0),
    (0, -1, 0, -1, 0, 0),
)
FORMS = ("files", "gz", "zip", "gz in zip", "tar", "gz in tar", "one name")
LOWEST_HU, HIGHEST_HU = -1024, 3071
AIR, TISSUE = -1000, 400
STUDY = "1.2.826.0.1.3680043.8.498.1"


@dataclass(frozen=True)
class Plan:
    """One series: how values are stored, where slices lie, in what files.

    `rescales` are (slope, intercept) a slice. `padding` is "none", "value", "range" (of stored values) or "word" (one that the
    stored bits cannot hold). `deep` codestreams hold the whole word, others the stored bits alone.
    """

    syntax: str
    signed: bool
    bits: int
    high_bit: int
    extended: bool
    deep: bool
    padding: str
    overlay: bool
    rescales: tuple[tuple[float, int], ...]
    shape: tuple[int, int]
    step_mm: float
    shear: float
    orientation: tuple[int, ...]
    order: tuple[int, ...]
    duplicated: int
    form: str
    metal: bool
    seed: int

    @property
    def span(self):
        """The lowest and highest stored value."""
        return (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)

    @property
    def shift(self):
        """Bits below the value."""
        return self.high_bit + 1 - self.bits


@st.composite
def plans(draw):
    """Any series that is sound."""
    syntax = draw(st.sampled_from([*NATIVE, *CODES, *LOSSY]))
    is_lossy = syntax in LOSSY
    signed = not is_lossy and draw(st.booleans())
    bits = 12 if syntax == ".4.51" else draw(st.integers(12 if is_lossy else 10, 16))
    deep = syntax in NATIVE or bits < 12 or (not is_lossy and draw(st.booleans()))
    high_bit = draw(st.sampled_from([bits - 1, bits - 1, 15])) if deep else bits - 1
    has_room = deep and bits < 14 and high_bit == bits - 1
    overlay = has_room and draw(st.booleans())
    paddings = ["none"] if is_lossy else ["none", "value", "range"] + ["word"] * (has_room and not overlay)
    n_slices = draw(st.integers(20, 24))
    return Plan(
        syntax,
        signed,
        bits,
        high_bit,
        extended=draw(st.booleans()),
        deep=deep,
        padding=draw(st.sampled_from(paddings)),
        overlay=overlay,
        rescales=tuple(draw(_rescales(signed, bits)) for _ in range(n_slices)),
        shape=(draw(st.integers(8, 20)), draw(st.integers(8, 20))),
        step_mm=draw(st.integers(65, 95)) / 10,
        shear=draw(st.sampled_from([0, 0, 0.3, -0.45])),
        orientation=draw(st.sampled_from(ORIENTATIONS)),
        order=tuple(draw(st.permutations(range(n_slices)))),
        duplicated=draw(st.integers(0, 3)),
        form=draw(st.sampled_from(FORMS)),
        metal=bits == 16 and not is_lossy and draw(st.booleans()),
        seed=draw(st.integers(0, 1 << 30)),
    )


@st.composite
def _rescales(draw, signed, bits):
    """A slope and an intercept with which air and tissue can be stored, and two values to spare at either end."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    slope = draw(st.sampled_from([slope for slope in (0.5, 1, 1.5, 2, 3) if slope * (high - low - 4) > TISSUE - AIR + 4]))
    least, most = int(TISSUE - slope * (high - 2)) + 1, int(AIR - slope * (low + 2)) - 1
    return slope, draw(st.integers(max(least, -3000), min(most, 3000)))


def _values(plan, k):
    """Stored values of slice `k`, and which lie outside the field of view."""
    rng = np.random.default_rng((plan.seed, k))
    slope, intercept = plan.rescales[k]
    low, high = plan.span
    hu = np.where(rng.random(plan.shape) < 0.5, rng.integers(AIR, -700, plan.shape), rng.integers(-150, TISSUE, plan.shape))
    hu[rng.random(plan.shape) < 0.02] = 1500
    hu.flat[0] = AIR
    if plan.metal:
        hu[3, 4] = 9000 + 100 * k
    values = np.clip(np.rint((hu - intercept) / slope), low + 2, high - 2).astype(int)
    outside = np.zeros(plan.shape, bool)
    if plan.padding != "none":
        outside[-2:, -3:] = True
        values[outside] = np.resize([low, low + (plan.padding == "range")], outside.sum())
    return values, outside


def wanted_hu(plan):
    """Hounsfield units [slice, row, column] in ascending order, rows to the back, columns to the left side."""
    volume = []
    for k in range(len(plan.rescales)):
        values, outside = _values(plan, k)
        if plan.syntax in LOSSY:
            values = LOSSY[plan.syntax][1](_code(plan, _words(plan, values, outside, k))).astype(int)
        slope, intercept = plan.rescales[k]
        hu = np.clip(np.rint(values * slope + intercept), LOWEST_HU, HIGHEST_HU)
        volume.append(np.where(outside, LOWEST_HU, hu))
    hu = np.stack(volume)
    across, down = plan.orientation[:3], plan.orientation[3:]
    if across[0] == 0:
        hu, across, down = hu.transpose(0, 2, 1), down, across
    return hu[:, :: down[1], :: across[0]]


def _words(plan, values, outside, k):
    """What the file holds for the values."""
    mask = (1 << plan.bits) - 1
    words = (values << plan.shift) & 0xFFFF if plan.signed and plan.extended and plan.deep else (values & mask) << plan.shift
    if plan.overlay:
        words = (words & 0x7FFF) | np.where(np.arange(words.size).reshape(words.shape) % (k + 2), 0x8000, 0)
    if plan.padding == "word":
        words[outside] = _pad_word(plan)
    return words.astype(np.uint16)


def _pad_word(plan):
    """A word that is no value of the stored bits."""
    return 0x8000 if plan.signed else 0xF830


def _header(plan):
    data = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    meta = data.file_meta
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, UID(BASE + plan.syntax)
    data.SOPClassUID, data.Modality, data.ImageType = CTImageStorage, "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.StudyInstanceUID, data.SeriesInstanceUID, data.PatientID = STUDY, STUDY + ".1", "made up"
    data.ImageOrientationPatient, data.PixelSpacing = list(plan.orientation), [1.5, 1.5]
    data.Rows, data.Columns = plan.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.RescaleType = 1, "MONOCHROME2", "HU"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, plan.bits, plan.high_bit, int(plan.signed)
    if plan.padding != "none":
        kind, low = ("SS", plan.span[0]) if plan.signed else ("US", 0)
        word = _pad_word(plan) - (plan.signed << 16)
        data.add_new("PixelPaddingValue", kind, word if plan.padding == "word" else low)
        if plan.padding == "range":
            data.add_new("PixelPaddingRangeLimit", kind, low + 1)
    if plan.overlay:
        data.add_new(0x60000102, "US", 15)
    return data


def _encoded(plan, words):
    """The value of PixelData."""
    if plan.syntax == ".2":
        return words.astype(">u2").tobytes()
    if plan.syntax == ".5":
        planes = [imagecodecs.packbits_encode(np.uint8(plane).tobytes()) for plane in (words >> 8, words & 255)]
        planes = [plane + bytes(len(plane) % 2) for plane in map(bytes, planes)]
        head = np.array([2, 64, 64 + len(planes[0])] + [0] * 13, "<u4").tobytes()
        return encapsulate([head + planes[0] + planes[1]])
    if plan.syntax in NATIVE:
        return words.tobytes()
    code = _code(plan, words)
    return encapsulate([code + bytes(len(code) % 2)])


def _code(plan, words):
    encode = CODES[plan.syntax] if plan.syntax in CODES else LOSSY[plan.syntax][0]
    return bytes(encode(words, 16 if plan.deep else plan.bits))


def _files(plan):
    """The bytes of each slice's file, in the order in which they are written."""
    data = _header(plan)
    for k in plan.order:
        values, outside = _values(plan, k)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{STUDY}.2.{k + 1}"
        z_mm = k * plan.step_mm - 70
        data.ImagePositionPatient = [-20, round(plan.shear * z_mm, 4), round(z_mm, 4)]
        data.RescaleSlope, data.RescaleIntercept = map(str, plan.rescales[k])
        data.PixelData = _encoded(plan, _words(plan, values, outside, k))
        data["PixelData"].VR = "OW" if plan.syntax in NATIVE[:4] else "OB"
        data["PixelData"].is_undefined_length = plan.syntax not in NATIVE[:4]
        buffer = io.BytesIO()
        dcmwrite(buffer, data, enforce_file_format=True)
        yield buffer.getvalue()


def write_series(plan, folder: Path):
    """Write the series into `folder`, which is there and empty."""
    files = list(_files(plan))
    files += files[: plan.duplicated]
    files = [gzip.compress(data, 1) for data in files] if plan.form.startswith("gz") else files
    if plan.form in ("zip", "gz in zip", "one name"):
        with zipfile.ZipFile(folder / "c.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for number, data in enumerate(files):
                archive.writestr("image.dcm" if plan.form == "one name" else f"{number}.dcm", data)
    elif plan.form in ("tar", "gz in tar"):
        with tarfile.open(folder / "c.tar", "w") as archive:
            for number, data in enumerate(files):
                entry = tarfile.TarInfo(f"{number}.dcm")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    else:
        for number, data in enumerate(files):
            (folder / f"{number}.dcm").write_bytes(data)
