"""One file never costs the run more than it holds: memory, time and the rank's ear are bounded by what is there."""

import gzip
import struct
import subprocess
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from pipeline.archive import Decoder, elements, list_folder, read_mask, reading, scan_file
from pipeline.archive import allowance as allowances
from pipeline.archive import scan as scanning
from pipeline.archive.allowance import Allowance
from pipeline.archive.reading import read_frames
from pipeline.errors import Drained, RankDied, StorageError, StudyError
from pipeline.phantom.images import compress, to_bytes
from tests.fabricate import images, verdict, write
from tests.test_archive_files import members, write_tar, write_zip
from tests.tools import environment, program

ROOT = Path(__file__).parents[1]
LIMIT_MB = 600
HANG_S = 120
EMPTY_ITEM = b"\xfe\xff\x00\xe0" + bytes(4)


def scanned_alone(folder):
    """(reasons of the only file's records, largest resident memory in MB) of a process that scans nothing else."""
    done = subprocess.run(
        [*program("scan_folder"), folder], env=environment(), capture_output=True, text=True, timeout=HANG_S, check=True
    )
    reasons, peak_mb = done.stdout.split()
    return reasons.split(","), int(peak_mb)


def per_frame(items):
    """A slice whose functional groups are these bytes."""
    data = to_bytes(images()[0]).getvalue()
    place = data.rindex(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    return data[:place] + struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, len(items)) + items + data[place:]


def sparse_header(name, real_size):
    """A sparse member of the old GNU form, without one stored byte."""
    raw = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    raw[156:157] = b"S"
    raw[386:410] = b"%011o\0%011o\0" % (real_size, 0)
    raw[483:495] = b"%011o\0" % real_size
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def claiming(kind, size):
    """A TAR header of one kind that says so much follows."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


def item(content):
    """A sequence's item."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def long_values(n_frames):
    """Empty frames that share a study UID of 60,000 letters."""
    data = per_frame(EMPTY_ITEM * n_frames)
    place = data.index(struct.pack("<HH2s", 0x20, 0x10, b"SH"))
    return data[:place] + struct.pack("<HH2sH", 0x20, 0xD, b"UI", 60_000) + b"1" * 60_000 + data[place:]


def write_gzip_bomb(path):
    """A slice, and 300 MB of zeros behind it."""
    with gzip.open(path, "wb") as file:
        file.write(to_bytes(images()[0]).getvalue())
        for _ in range(300):
            file.write(bytes(1 << 20))


def huge(path, head, size):
    """A file of a size that its few bytes do not fill on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def write_bzip2_bomb(path):
    """128 MB of zeros in a ZIP of some hundred bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive, archive.open("a", "w", force_zip64=True) as member:
        for _ in range(128):
            member.write(bytes(1 << 20))


def write_directory_bomb(path):
    """A ZIP that says its table of contents fills the 1 GB of the file."""
    huge(path, b"PK\x03\x04", 1 << 30)
    with path.open("ab") as file:
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 1 << 30, 0, 0))


def writing(data):
    return lambda path: path.write_bytes(data())


BOMBS = {
    "a million empty items": (writing(lambda: per_frame(EMPTY_ITEM * 1_000_000)), "DECOMPRESSION_BOMB"),
    "items beyond the limit": (writing(lambda: per_frame(EMPTY_ITEM * 1_500_000)), "DECOMPRESSION_BOMB"),
    "long values in many frames": (writing(lambda: long_values(9_000)), "DECOMPRESSION_BOMB"),
    "sparse members of 1 GB": (writing(lambda: 2 * sparse_header("a", 1 << 30) + bytes(1024)), "ARCHIVE_SPARSE"),
    "a pax header of 2 GB": (lambda path: huge(path, claiming(b"x", 2 << 30), 2 << 30), "ARCHIVE_CORRUPT"),
    "a long name of 2 GB": (lambda path: huge(path, claiming(b"L", 2 << 30), 2 << 30), "ARCHIVE_CORRUPT"),
    "a member of bzip2": (write_bzip2_bomb, "DECOMPRESSION_BOMB"),
    "a table of contents of 1 GB": (write_directory_bomb, "DECOMPRESSION_BOMB"),
    "a slice in a gzip": (write_gzip_bomb, "DECOMPRESSION_BOMB"),
}


@pytest.mark.parametrize(("make", "reason"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_in_little_memory(make, reason, tmp_path):
    make(tmp_path / "bomb")
    found, peak_mb = scanned_alone(tmp_path)
    assert set(found) - {"UNPACKED"} == {reason}
    assert peak_mb < LIMIT_MB


@pytest.mark.parametrize("make", [make for make, _ in BOMBS.values()], ids=BOMBS)
def test_a_bomb_does_not_deafen_its_rank(make, tmp_path, monkeypatch):
    """`tick` is called in the midst of it, wherever that is, and what it raises leaves at once."""
    make(tmp_path / "bomb")
    monkeypatch.setattr(allowances, "PAUSE_EVERY_S", 0.0)
    heard = []

    def tick():
        heard.append(1)
        if len(heard) == 2:
            raise Drained("asked to stop")

    _, (file,), _ = list_folder(tmp_path, "")
    try:
        scan_file(tmp_path, file, tick)
    except Drained:
        assert len(heard) == 2
    else:
        assert len(heard) < 2  # refused before there was anything to wait for


LIMITS = {"MAX_ELEMENTS": 100, "MAX_ITEMS": 100, "MAX_KEPT": 5000}


@pytest.mark.parametrize("limit", LIMITS)
def test_elements_items_and_what_is_kept_are_counted(limit, tmp_path, monkeypatch):
    element = struct.pack("<HH2sH4s", 0x20, 0x9157, b"UL", 4, bytes(4))
    (tmp_path / "x").write_bytes(per_frame(150 * item(element)))
    _, (file,), _ = list_folder(tmp_path, "")
    assert scan_file(tmp_path, file).records[0].reason == ""
    monkeypatch.setattr(elements, "PAUSE_EVERY", 1)
    monkeypatch.setattr(elements, limit, LIMITS[limit])
    assert scan_file(tmp_path, file).records[0].reason == "DECOMPRESSION_BOMB"


def test_ten_thousand_frames_of_ct_are_read(tmp_path):
    (tmp_path / "x").write_bytes(per_frame(10_000 * item(struct.pack("<HH2sH4s", 0x20, 0x9157, b"UL", 4, bytes(4)))))
    _, (file,), _ = list_folder(tmp_path, "")
    (record,) = scan_file(tmp_path, file).records
    assert record.reason == ""
    assert len(record.headers) == 10_000


def test_a_segmentation_of_many_frames_is_one_image_that_is_no_ct(tmp_path):
    data = per_frame(60_000 * EMPTY_ITEM).replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5.1.4.1.1.66")
    (tmp_path / "x").write_bytes(data)
    _, (file,), _ = list_folder(tmp_path, "")
    (record,) = scan_file(tmp_path, file).records
    assert [header.sop_class for header in record.headers] == ["1.2.840.10008.5.1.4.1.1.66"]


def test_a_file_that_takes_too_many_cpu_seconds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(allowances, "CPU_S", -1.0)
    (tmp_path / "x").write_bytes(per_frame(EMPTY_ITEM * 2000))
    _, (file,), _ = list_folder(tmp_path, "")
    assert scan_file(tmp_path, file).records[0].reason == "DECOMPRESSION_BOMB"


def test_what_serving_the_other_ranks_takes_is_not_the_files_time(monkeypatch):
    monkeypatch.setattr(allowances, "PAUSE_EVERY_S", 0.0)
    monkeypatch.setattr(allowances, "CPU_S", 0.5)

    def serve():
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass

    allowance = Allowance(serve)
    for _ in range(4):
        allowance.pause()


class Panic(BaseException):
    """What a library in another language may raise."""


RAISED = {
    "MemoryError": (MemoryError(), "OUT_OF_MEMORY"),
    "RecursionError": (RecursionError(), "HEADER_TOO_DEEP"),
    "AssertionError": (AssertionError(), "HEADER_CORRUPT"),
    "StopIteration": (StopIteration(), "HEADER_CORRUPT"),
    "a panic": (Panic(), "HEADER_CORRUPT"),
    "a decompressor's OSError": (OSError("Invalid data stream"), "HEADER_CORRUPT"),
    "a place beyond all files": (OSError(22, "Invalid argument"), "HEADER_CORRUPT"),
    "the storage's OSError": (OSError(5, "Input/output error"), "IO_ERROR"),
    "stale storage": (OSError(116, "Stale file handle"), "IO_ERROR"),
}


@pytest.mark.parametrize(("error", "reason"), RAISED.values(), ids=RAISED)
def test_whatever_a_parser_raises_is_the_reason_of_its_file(error, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "read_headers", raising(error))
    (tmp_path / "x").write_bytes(to_bytes(images()[0]).getvalue())
    _, (file,), _ = list_folder(tmp_path, "")
    assert [record.reason for record in scan_file(tmp_path, file).records] == [reason]


@pytest.mark.parametrize(("error", "reason"), RAISED.values(), ids=RAISED)
def test_what_a_parser_raises_is_its_members_reason_and_storage_that_of_the_container(error, reason, tmp_path, monkeypatch):
    sound = scanning.read_headers

    def second_fails(stream, size, origin, allowance):
        if origin.member == "IM001":
            raise error
        return sound(stream, size, origin, allowance)

    monkeypatch.setattr(scanning, "read_headers", second_fails)
    write_zip(tmp_path / "x", members(3))
    _, (file,), _ = list_folder(tmp_path, "")
    reasons = [record.reason for record in scan_file(tmp_path, file).records]
    assert reasons == (["IO_ERROR", ""] if reason == "IO_ERROR" else ["UNPACKED", "", reason, ""])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_end_that_was_asked_for_is_no_fault_of_the_file(error, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "read_headers", raising(error))
    (tmp_path / "x").write_bytes(to_bytes(images()[0]).getvalue())
    _, (file,), _ = list_folder(tmp_path, "")
    with pytest.raises(type(error)):
        scan_file(tmp_path, file)


NEWS = (RankDied("root died"), Drained("asked"), StorageError("full"), OSError(28, "full"), RuntimeError("mpi"), Panic())


@pytest.mark.parametrize("news", NEWS, ids=[type(news).__name__ for news in NEWS])
@pytest.mark.parametrize("form", ["slice", "zip", "tar", "tar.gz", "dcm.gz"])
def test_what_tick_raises_passes_untouched(form, news, tmp_path, monkeypatch):
    monkeypatch.setattr(allowances, "PAUSE_EVERY_S", 0.0)
    monkeypatch.setattr(elements, "PAUSE_EVERY", 1)
    write_form(tmp_path / "x", form)
    _, (file,), _ = list_folder(tmp_path, "")
    n_ticks = []
    scan_file(tmp_path, file, lambda: n_ticks.append(1))
    for last in {1, 2, len(n_ticks) // 2, len(n_ticks)}:
        left = [None] * (last - 1) + [news]
        with pytest.raises(type(news)) as caught:
            scan_file(tmp_path, file, lambda: raise_(left.pop(0)))  # noqa: B023  called within the loop
        assert caught.value is news


def test_reading_hears_of_the_run_too(tmp_path, monkeypatch):
    write_zip(tmp_path / "x", members(2))
    _, (file,), _ = list_folder(tmp_path, "")
    sources = [record.headers[0].source for record in scan_file(tmp_path, file).records[1:]]
    with pytest.raises(RankDied):
        read_frames(tmp_path, sources, raising(RankDied("root died")))


@pytest.mark.parametrize(("error", "reason"), RAISED.values(), ids=RAISED)
def test_whatever_happens_while_frames_are_read_is_a_study_error(error, reason, tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(to_bytes(images()[0]).getvalue())
    _, (file,), _ = list_folder(tmp_path, "")
    source = scan_file(tmp_path, file).records[0].headers[0].source
    monkeypatch.setattr(reading, "content", raising(error))
    with pytest.raises(StudyError) as caught:
        read_frames(tmp_path, [source])
    assert caught.value.reason == reason.replace("HEADER_CORRUPT", "DECODE_ERROR")


def raise_(error):
    if error is not None:
        raise error


def raising(error):
    def call(*_):
        raise error

    return call


def write_form(path, form):
    if form == "zip":
        write_zip(path, members(2))
    elif form.startswith("tar"):
        write_tar(path, members(2), "w:gz" if form == "tar.gz" else "w")
    else:
        data = to_bytes(images()[0]).getvalue()
        path.write_bytes(gzip.compress(data) if form == "dcm.gz" else data)


FAR = {"PixelSpacing": [50, 50], "ImagePositionPatient": [0, 0, 1e30]}


@pytest.mark.parametrize("keyword", FAR)
def test_a_place_or_a_field_that_no_scanner_has_is_an_invalid_value(keyword, tmp_path):
    data_sets = images()
    for data in data_sets:
        data.Rows, data.PixelData = 96, data.PixelData * 3
        setattr(data, keyword, FAR[keyword])
    write(tmp_path / "a", data_sets)
    assert verdict(tmp_path / "a")[0] == "INVALID_VALUE"


def test_pixels_that_would_be_squared_to_a_huge_matrix_are_refused(tmp_path):
    data_sets = images()
    for data in data_sets:
        data.PixelSpacing = [0.01, 10]
    write(tmp_path / "a", data_sets)
    assert verdict(tmp_path / "a")[0] == "DECOMPRESSION_BOMB"


def test_a_mask_of_any_size_is_read_within_bounds(tmp_path):
    huge(tmp_path / "mask.png", b"\x89PNG", 1 << 30)
    with Decoder() as decoder, pytest.raises(StudyError, match="DECOMPRESSION_BOMB"):
        read_mask(tmp_path, "mask.png", (8, 8), decoder)


def test_a_frame_is_read_no_further_than_its_size_allows(tmp_path, monkeypatch):
    """One frame's fragments end where the file ends, if nothing else says so."""
    data = images()[0]
    compress(data, "1.2.840.10008.1.2.5")
    huge(tmp_path / "x", to_bytes(data).getvalue(), 1 << 30)
    _, (file,), _ = list_folder(tmp_path, "")
    (header,) = scan_file(tmp_path, file).records[0].headers
    tracemalloc.start()
    (frame,) = read_frames(tmp_path, [header.source])
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    with Decoder() as decoder:
        assert decoder.decode(frame, header.source).values.shape == (32, 32)
