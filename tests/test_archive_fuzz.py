"""Whatever bytes a file holds, reading it ends in one record: no exception, no hang, no private text."""

import gzip
import random
import zipfile

import pytest

from pipeline.archive import FoundFile, scan_file
from pipeline.archive.codestream import codestream_size, rle_is_sane
from pipeline.errors import Reason
from pipeline.phantom.images import compress, to_bytes
from tests.fabricate import images
from tests.test_archive_files import members, write_tar, write_zip

SEED = 20260
CONTAINERS = ("zip", "tar", "tar.gz", "bzip2", "lzma", "dcm.gz")


def originals(tmp_path):
    """Sound files of many forms, as bytes."""
    plain, rle, deflated = images()[:3]
    compress(rle, "1.2.840.10008.1.2.5")
    compress(deflated, "1.2.840.10008.1.2.1.99")
    write_zip(tmp_path / "zip", members(2))
    write_tar(tmp_path / "tar", members(2))
    write_tar(tmp_path / "tar.gz", members(2), "w:gz")
    write_zip(tmp_path / "bzip2", members(2), zipfile.ZIP_BZIP2)
    write_zip(tmp_path / "lzma", members(2), zipfile.ZIP_LZMA)
    (tmp_path / "dcm.gz").write_bytes(gzip.compress(to_bytes(plain).getvalue()))
    files = [to_bytes(data).getvalue() for data in (plain, rle, deflated)]
    return files + [(tmp_path / name).read_bytes() for name in CONTAINERS]


def mutated(data, draw):
    """Bytes changed, cut out, doubled, or the end cut off; mostly near the beginning, where headers are."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20))):
        place = min(int(draw.expovariate(1 / 600)), len(data) - 1)
        kind = draw.randrange(4)
        if kind == 0:
            data[place] = draw.randrange(256)
        elif kind == 1:
            del data[place : place + draw.randrange(1, 9)]
        elif kind == 2:
            data[place:place] = data[place : place + draw.randrange(1, 9)]
        else:
            data[place : place + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"))
        data = data or bytearray(b"x")
    return bytes(data[: draw.randrange(1, len(data))] if draw.random() < 0.1 else data)


@pytest.mark.parametrize("form", range(9), ids=["plain", "rle", "deflated", *CONTAINERS])
def test_mutated_files_end_in_records_with_known_reasons(form, tmp_path):
    draw, original = random.Random(SEED + form), originals(tmp_path)[form]
    for _ in range(300):
        data = mutated(original, draw)
        (tmp_path / "x").write_bytes(data)
        records = scan_file(tmp_path, FoundFile("x", len(data), 1)).records
        assert records
        for record in records:
            assert record.reason in {"", *Reason}
            assert all(header.problem in {"", *Reason} for header in record.headers)


def test_random_bytes_behind_every_magic_end_in_records(tmp_path):
    draw = random.Random(SEED)
    for magic in (b"", bytes(128) + b"DICM", b"PK\x03\x04", b"\x1f\x8b", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\x08\0"):
        for _ in range(50):
            (tmp_path / "x").write_bytes(magic + draw.randbytes(draw.randrange(1, 3000)))
            assert len(scan_file(tmp_path, FoundFile("x", 3000, 1)).records) == 1


def test_codestream_headers_of_any_bytes_are_read_without_an_error():
    draw = random.Random(SEED)
    for magic in (b"", b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x89PNG\r\n\x1a\n"):
        for _ in range(2000):
            data = magic + draw.randbytes(draw.randrange(200))
            codestream_size(data)
            rle_is_sane(data, 2, 1024)
