"""Whatever is wrong with an input gets its reason code; what is merely odd is read, with a warning."""

import gzip
import struct
import zlib

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID, generate_uid

from pipeline.archive import list_folder, scan_file
from pipeline.phantom.images import stored_of, to_bytes
from pipeline.phantom.odd import ODD
from tests.fabricate import hu_of, images, indexed, left_out, phantom, verdict, write

RLE, J2K, DEFLATED = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.1.99"


def each(change, **options):
    """All slices of a series, changed one by one."""
    data_sets = images(**options)
    for data in data_sets:
        change(data)
    return data_sets


def setting(**values):
    return lambda data: [setattr(data, keyword, value) for keyword, value in values.items()]


def removing(*keywords):
    return lambda data: [delattr(data, keyword) for keyword in keywords]


def text_in(keyword, text):
    def change(data):
        tag = data[keyword].tag
        del data[tag]
        data.add_new(tag, "LO", text)

    return change


def encapsulated(syntax, frame):
    def change(data):
        data.PixelData = encapsulate([frame(data) if callable(frame) else frame])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = UID(syntax)

    return change


def both(*changes):
    return lambda data: [change(data) for change in changes]


def j2k(rows, columns):
    return b"\xff\x4f\xff\x51\x00\x29\x00\x00" + struct.pack(">II", columns, rows) + bytes(8) + b"\x55" * 99


def rle(n_segments, size):
    return struct.pack("<16I", n_segments, 64, *[0] * 14) + bytes(size)


def shorter(data):
    data.PixelData = data.PixelData[:-512]


def doubled(data):
    data.PixelData = data.PixelData * 2


def as_float(data):
    pixels = np.zeros((data.Rows, data.Columns), np.float32)
    del data.PixelData
    data.FloatPixelData, data.BitsAllocated = pixels.tobytes(), 32


def as_32_bit(data):
    data.BitsAllocated = data.BitsStored = 32
    data.HighBit, data.PixelData = 31, stored_of_as(data, "<u4")


def stored_of_as(data, kind):
    return np.frombuffer(data.PixelData, "<u2").astype(kind).tobytes()


def as_rgb(data):
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelData = 7, bytes(data.Rows * data.Columns * 3)


BROKEN = {
    "pixel data 512 bytes short": (shorter, "TRUNCATED_PIXEL_DATA"),
    "pixel data doubled": (doubled, "PIXEL_FORMAT"),
    "no pixel data": (removing("PixelData"), "NO_PIXEL_DATA"),
    "empty pixel data": (setting(PixelData=b""), "NO_PIXEL_DATA"),
    "no rescale": (removing("RescaleSlope", "RescaleIntercept"), "NOT_HU"),
    "no slope": (removing("RescaleSlope"), "NOT_HU"),
    "empty slope": (setting(RescaleSlope=None), "NOT_HU"),
    "slope 0": (setting(RescaleSlope=0), "NOT_HU"),
    "slope NaN": (text_in("RescaleSlope", "NaN"), "NOT_HU"),
    "slope infinite": (text_in("RescaleSlope", "1e999"), "NOT_HU"),
    "rescaled to something else": (setting(RescaleType="US"), "NOT_HU"),
    "decimal comma in the spacing": (text_in("PixelSpacing", "0,7\\0,7"), "INVALID_VALUE"),
    "decimal comma in the position": (text_in("ImagePositionPatient", "0,5\\1,5\\2,5"), "INVALID_VALUE"),
    "pixel spacing 0": (setting(PixelSpacing=[0, 0]), "INVALID_VALUE"),
    "position of two values": (setting(ImagePositionPatient=[0, 0]), "MISSING_GEOMETRY"),
    "no position": (removing("ImagePositionPatient"), "MISSING_GEOMETRY"),
    "no orientation": (removing("ImageOrientationPatient"), "MISSING_GEOMETRY"),
    "orientation zero": (setting(ImageOrientationPatient=[0] * 6), "MISSING_GEOMETRY"),
    "orientation not orthogonal": (setting(ImageOrientationPatient=[1, 0, 0, 0.7071, 0.7071, 0]), "MISSING_GEOMETRY"),
    "no pixel spacing": (removing("PixelSpacing"), "MISSING_GEOMETRY"),
    "coronal": (setting(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "NOT_AXIAL"),
    "lower-case mip": (text_in("ImageType", "DERIVED\\SECONDARY\\mip "), "REFORMATTED"),
    "topogram": (setting(ImageType=["ORIGINAL", "PRIMARY", "TOPOGRAM"]), "LOCALIZER_ONLY"),
    "text drawn in": (setting(BurnedInAnnotation="YES"), "BURNED_IN"),
    "32 bits": (as_32_bit, "PIXEL_FORMAT"),
    "float pixels": (as_float, "PIXEL_FORMAT"),
    "colour": (as_rgb, "PIXEL_FORMAT"),
    "all at one place": (setting(ImagePositionPatient=[0, 0, 0]), "TOO_FEW_SLICES"),
    "a private transfer syntax": (encapsulated("1.2.3.4.5", b"\0" * 99), "UNSUPPORTED_TRANSFER_SYNTAX"),
    "JPEG of 12 bits, which nothing decodes": (
        encapsulated("1.2.840.10008.1.2.4.53", bytes(99)),
        "UNSUPPORTED_TRANSFER_SYNTAX",
    ),
    "J2K of other rows": (encapsulated(J2K, j2k(64, 32)), "DECODE_ERROR"),
    "J2K with nothing behind its header": (encapsulated(J2K, lambda data: j2k(data.Rows, data.Columns)), "DECODE_ERROR"),
    "no J2K at all": (encapsulated(J2K, b"not a codestream"), "DECODE_ERROR"),
    "J2K of 60000 x 60000": (encapsulated(J2K, j2k(60_000, 60_000)), "DECOMPRESSION_BOMB"),
    "RLE of 65535 x 65535": (
        both(encapsulated(RLE, rle(2, 64)), setting(Rows=65535, Columns=65535)),
        "DECOMPRESSION_BOMB",
    ),
    "RLE of 3 segments": (encapsulated(RLE, rle(3, 999)), "DECODE_ERROR"),
    "RLE too short for its rows": (encapsulated(RLE, rle(2, 4)), "DECODE_ERROR"),
    "RLE without a frame": (encapsulated(RLE, bytes(2)), "DECODE_ERROR"),
}


@pytest.mark.parametrize(("change", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_series_broken_in_every_slice_gets_its_reason(change, reason, tmp_path):
    write(tmp_path / "a", each(change))
    assert verdict(tmp_path / "a")[0] == reason


def test_a_sound_series_has_neither_reason_nor_warning(tmp_path):
    write(tmp_path / "a", images())
    assert verdict(tmp_path / "a") == ("", set())


ODD_WARNINGS = {
    "localizer-inside": {"LOCALIZER_ONLY"},
    "duplicates": {"DUPLICATE_SLICES"},
    "second-acquisition": {"MULTIPLE_STACKS"},
    "two-kernels-one-series": {"MULTIPLE_STACKS"},
    "one-small-matrix": {"MIXED_GEOMETRY", "SLICE_GAP"},
    "one-sop-uid": {"UID_CONFLICT"},
    "sheared": {"GANTRY_TILT"},
    "two-slices-removed": {"SLICE_GAP"},
    "monochrome1": {"PIXEL_FORMAT"},
    "placeholder-1": {"PLACEHOLDER_ID"},
    "prone-feet-first": set(),
    "no-instance-numbers": set(),
}


@pytest.mark.parametrize("what", ODD_WARNINGS)
def test_an_odd_series_is_read_with_a_warning(what, tmp_path):
    write(tmp_path / "a", ODD[what][2](images(n_slices=30)))
    assert verdict(tmp_path / "a") == ("", ODD_WARNINGS[what])


def test_prone_feet_first_and_transposed_slices_become_what_head_first_supine_ones_are(tmp_path):
    plain, turned = images("1"), ODD["prone-feet-first"][2](images("2"))
    transposed = images("3")
    for data in transposed:
        data.PixelData = np.ascontiguousarray(stored_of(data).T).tobytes()
        data.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    for number, data_sets in enumerate((plain, turned, transposed)):
        write(tmp_path / "a" / str(number), data_sets)
    _, studies = indexed(tmp_path / "a")
    first, *others = (hu_of(tmp_path / "a", study) for study in studies)
    assert len(others) == 2
    assert all(np.array_equal(first, other) for other in others)


def test_more_than_thirty_degrees_of_tilt_exclude(tmp_path):
    data_sets = images()
    for data in data_sets:
        x, y, z = data.ImagePositionPatient
        data.ImagePositionPatient = [x, y + z, z]  # 45 degrees
    write(tmp_path / "a", data_sets)
    assert verdict(tmp_path / "a")[0] == "GANTRY_TILT"


def test_a_wrong_sign_is_found_whichever_way_it_is_wrong(tmp_path):
    write(tmp_path / "a", each(setting(PixelRepresentation=1), vendor=0))
    write(tmp_path / "b", each(setting(PixelRepresentation=0), vendor=3))
    assert verdict(tmp_path / "a")[0] == "PIXELS_SIGN"
    assert verdict(tmp_path / "b")[0] == "PIXELS_SIGN"


@pytest.mark.parametrize("vendor", range(4))
def test_signed_and_unsigned_pixels_of_every_vendor_give_the_same_hu(vendor, tmp_path):
    write(tmp_path / "a", images(vendor=vendor))
    _, (study,) = indexed(tmp_path / "a")
    hu, wanted = hu_of(tmp_path / "a", study), phantom().hu
    y, x = np.ogrid[-1:1:32j, -1:1:32j]
    inside = x**2 + y**2 <= 1
    assert np.array_equal(hu[:, inside], wanted[:, inside])


def test_padding_becomes_air(tmp_path):
    write(tmp_path / "a", images(vendor=1))
    _, (study,) = indexed(tmp_path / "a")
    assert (hu_of(tmp_path / "a", study)[:, 0, 0] == -1024).all()


def test_a_range_of_padding_values_becomes_air(tmp_path):
    def change(data):
        stored = stored_of(data).copy()
        stored[0, 0], stored[0, 1] = 4000, 4010
        data.PixelData = stored.tobytes()
        data.PixelPaddingValue, data.PixelPaddingRangeLimit = 4000, 4095

    write(tmp_path / "a", each(change))
    _, (study,) = indexed(tmp_path / "a")
    assert (hu_of(tmp_path / "a", study)[:, 0, :2] == -1024).all()


def test_rescale_is_taken_slice_by_slice(tmp_path):
    data_sets = images()
    data = data_sets[7]
    data.PixelData = (stored_of(data) // 2 * 2 // 2).astype("<u2").tobytes()
    data.RescaleSlope = 2
    write(tmp_path / "a", data_sets)
    _, (study,) = indexed(tmp_path / "a")
    assert np.abs(hu_of(tmp_path / "a", study).astype(int) - phantom().hu).max() <= 1


def one_file(tmp_path, data):
    """(reason of the file, its first header's problem)."""
    (tmp_path / "f").mkdir(exist_ok=True)
    (tmp_path / "f" / "x").write_bytes(data)
    _, (file,), _ = list_folder(tmp_path / "f", "")
    (record,) = scan_file(tmp_path / "f", file).records
    return record.reason, record.headers[0].problem if record.headers else None


def sound():
    return to_bytes(images()[0]).getvalue()


def headless(data, *, implicit):
    """A data set without preamble and meta group."""
    from io import BytesIO

    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, implicit
    copy = dcmread(BytesIO(data))
    del copy.file_meta
    write_dataset(stream, copy)
    return stream.getvalue()


def nested(levels):
    """A data set with sequences of undefined length, one in the other."""
    open_ = struct.pack("<HH2s2xI", 8, 0x1140, b"SQ", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    close = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    data = sound()
    place = data.index(struct.pack("<HH", 8, 0x1090))  # ManufacturerModelName
    return data[:place] + open_ * levels + close * levels + data[place:]


def meta_without_syntax(data):
    """The same file, its TransferSyntaxUID element cut out of the meta group."""
    start = data.index(struct.pack("<HH", 2, 0x10))
    length = struct.unpack("<H", data[start + 6 : start + 8])[0]
    return data[:start] + data[start + 8 + length :]


def deflated_bomb():
    """A header, then a private element of 200 MB of zeros, deflated to 200 kB."""
    data = sound()
    start = data.index(struct.pack("<HH", 8, 8))
    meta = data[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    meta = meta.replace(b"UI\x14\x001.2.840.10008.1.2.1.99", b"UI\x16\x001.2.840.10008.1.2.1.99")
    pack = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = pack.compress(data[start:][:300] + struct.pack("<HH2s2xI", 9, 0x1001, b"OB", 200 << 20))
    body += b"".join(pack.compress(bytes(1 << 20)) for _ in range(200)) + pack.flush()
    return meta + body


FILES = {
    "text": (lambda: b"some text that is no image\n" * 20, "NOT_DICOM"),
    "one byte": (lambda: b"x", "NOT_DICOM"),
    "gzip of a text": (lambda: gzip.compress(b"some text" * 99), "NOT_DICOM"),
    "magic and garbage": (lambda: bytes(128) + b"DICM" + b"\xff\x13garbage" * 40, "HEADER_CORRUPT"),
    "magic and nothing": (lambda: bytes(128) + b"DICM", "HEADER_CORRUPT"),
    "cut at 300 bytes": (lambda: sound()[:300], "HEADER_CORRUPT"),
    "cut at 700 bytes": (lambda: sound()[:700], "HEADER_CORRUPT"),
    "200 nested sequences": (lambda: nested(200), "HEADER_TOO_DEEP"),
    "5000 nested sequences": (lambda: nested(5000), "HEADER_TOO_DEEP"),
    "deflated bomb": (deflated_bomb, "HEADER_CORRUPT|DECOMPRESSION_BOMB"),
    "no study UID": (lambda: to_bytes(without(images()[0], "StudyInstanceUID")).getvalue(), "MISSING_UID"),
    "empty series UID": (lambda: to_bytes(with_(images()[0], SeriesInstanceUID="")).getvalue(), "MISSING_UID"),
    "broken JPEG": (lambda: b"\xff\xd8\xff\xe0" + bytes(100), "HEADER_CORRUPT"),
    "0 bytes": (lambda: b"", "EMPTY_FILE"),
}


def without(data, keyword):
    delattr(data, keyword)
    return data


def with_(data, **values):
    setting(**values)(data)
    return data


@pytest.mark.parametrize(("make", "reason"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_sound_image_gets_its_reason(make, reason, tmp_path):
    assert one_file(tmp_path, make())[0] in reason.split("|")


SOUND = {
    "30 nested sequences": lambda: nested(30),
    "no transfer syntax": lambda: meta_without_syntax(sound()),
    "no preamble, implicit": lambda: headless(sound(), implicit=True),
    "no preamble, explicit": lambda: headless(sound(), implicit=False),
}


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND)
def test_what_can_be_recovered_is(make, tmp_path):
    assert one_file(tmp_path, make()) == ("", "")


def test_a_file_cut_in_half_is_truncated(tmp_path):
    data = sound()
    assert one_file(tmp_path, data[: len(data) * 2 // 3]) == ("", "TRUNCATED_PIXEL_DATA")


def test_a_200_mb_private_element_is_passed_over(tmp_path):
    data = sound()
    place = data.index(struct.pack("<HH", 0x10, 0x10))
    huge = struct.pack("<HH2s2xI", 9, 0x1001, b"OB", 200 << 20)
    (tmp_path / "f").mkdir()
    with (tmp_path / "f" / "x").open("wb") as file:
        file.write(data[:place] + huge)
        file.seek(200 << 20, 1)
        file.write(data[place:])
    _, (file,), _ = list_folder(tmp_path / "f", "")
    (record,) = scan_file(tmp_path / "f", file).records
    assert (record.reason, record.headers[0].problem) == ("", "")


def test_a_hostile_uid_is_never_a_name(tmp_path):
    hostile = "../../../x\0y"
    write(tmp_path / "a", each(lambda data: data.add_new(0x0020000D, "LO", hostile)))
    _, (study,) = indexed(tmp_path / "a")
    assert study.study_key.isalnum()
    assert study.candidates


def test_one_broken_slice_of_many_is_dropped_with_a_warning_and_more_exclude(tmp_path):
    data_sets = images(n_slices=30)
    data_sets[4].RescaleSlope = 0
    write(tmp_path / "a", data_sets)
    assert verdict(tmp_path / "a") == ("", {"NOT_HU", "SLICE_GAP"})
    for data in data_sets[:5]:
        data.RescaleSlope = 0
    write(tmp_path / "b", data_sets)
    assert verdict(tmp_path / "b")[0] == "NOT_HU"


def test_two_patients_under_one_study_uid_are_not_merged_with_either(tmp_path):
    data_sets = images()
    for data in data_sets[:12]:
        data.PatientID = "OTHER"
    write(tmp_path / "a", data_sets)
    _, (study,) = indexed(tmp_path / "a")
    assert "UID_CONFLICT" in {event.code for event in study.events}
    assert study.patient_id.startswith("study ")


def test_placeholder_ids_never_merge_strangers_and_true_ones_join_studies(tmp_path):
    for name, patient in (("1", "ANONYMOUS"), ("2", "anonymous "), ("3", ""), ("4", "P7"), ("5", "P7")):
        write(tmp_path / "a" / name, each(setting(PatientID=patient), name=name))
    _, studies = indexed(tmp_path / "a")
    assert len({study.patient_key for study in studies}) == 4


def test_a_report_alone_is_no_image_and_a_capture_no_ct(tmp_path):
    capture = each(setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), name="1")
    report = each(both(removing("PixelData"), setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22")), name="2")
    write(tmp_path / "a", capture)
    write(tmp_path / "b", report)
    assert verdict(tmp_path / "a")[0] == "NO_CT"
    assert verdict(tmp_path / "b")[0] == "NON_IMAGE_ONLY"


def test_files_outside_any_study_are_counted_by_reason(tmp_path):
    write(tmp_path / "a", images())
    (tmp_path / "a" / "notes.txt").write_text("notes")
    (tmp_path / "a" / "empty").touch()
    manifest, (study,) = indexed(tmp_path / "a")
    assert left_out(manifest) == {"NOT_DICOM": 1, "EMPTY_FILE": 1}
    assert manifest.heading.n_files == study.n_files + 2


def test_slices_that_share_one_uid_and_one_place_are_duplicates_not_a_conflict(tmp_path):
    data_sets = images()
    again = dcmread(to_bytes(data_sets[0]))
    again.SOPInstanceUID = generate_uid()
    write(tmp_path / "a", [*data_sets, again])
    assert verdict(tmp_path / "a") == ("", {"DUPLICATE_SLICES"})
