"""Members of every kind of container are read where they stand, each for itself: damage to one is no loss of another."""

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
import warnings
import zipfile

import numpy as np
import pytest

from pipeline.archive import container, list_folder, scan_file
from pipeline.archive import tar as tars
from pipeline.archive.allowance import Allowance
from pipeline.archive.inflate import forward, gunzipped
from pipeline.errors import StudyError
from pipeline.phantom.images import to_bytes
from tests.fabricate import hu_of, images, indexed, left_out, phantom, write
from tests.test_archive_files import WRITERS, members, write_tar, write_zip

METHODS = {"stored": zipfile.ZIP_STORED, "deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
DAMAGED = 3


def records(path):
    """The records of one file, by reason; of members, by name."""
    _, files, _ = list_folder(path.parent, "")
    (file,) = [file for file in files if file.path == path.name]
    own, *inside = scan_file(path.parent, file).records
    return own.reason, {record.member: record.reason for record in inside}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_slices_are_read_from_a_zip_of_any_method(method, tmp_path):
    (tmp_path / "a").mkdir()
    write_zip(tmp_path / "a" / "c.zip", members(), method)
    _, (study,) = indexed(tmp_path / "a")
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


def damaged(data, entry):
    """The packed bytes of a member are chance."""
    start = entry.header_offset + 30 + len(entry.filename) + 20
    return data[:start] + random.Random(1).randbytes(200) + data[start + 200 :]


def central(data):
    """Where the table of contents speaks of the damaged member."""
    place = -1
    for _ in range(DAMAGED + 1):
        place = data.index(b"PK\x01\x02", place + 1)
    return place


def of_unknown_method(data, _):
    """The table of contents says that it is packed with Deflate64."""
    place = central(data)
    return data[: place + 10] + b"\x09\0" + data[place + 12 :]


def of_other_checksum(data, _):
    """The table of contents has another checksum."""
    place = central(data)
    return data[: place + 16] + b"\1\2\3\4" + data[place + 20 :]


@pytest.mark.parametrize("harm", [damaged, of_unknown_method, of_other_checksum])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_damaged_member_of_a_zip_costs_itself_only(method, harm, tmp_path):
    path = tmp_path / "c.zip"
    write_zip(path, members(6), method)
    with zipfile.ZipFile(path) as archive:
        entry = archive.infolist()[DAMAGED]
    path.write_bytes(harm(path.read_bytes(), entry))
    own, inside = records(path)
    assert own == "UNPACKED"
    assert inside == {f"IM{n:03d}": "ARCHIVE_CORRUPT" if n == DAMAGED else "" for n in range(6)}


def test_a_dictionary_of_4_gb_is_not_made(tmp_path):
    write_zip(tmp_path / "c.zip", members(2), zipfile.ZIP_LZMA)
    data = bytearray((tmp_path / "c.zip").read_bytes())
    place = data.index(b"\x5d\0\0\x80\0")
    data[place + 1 : place + 5] = b"\xff\xff\xff\xff"
    (tmp_path / "c.zip").write_bytes(data)
    assert records(tmp_path / "c.zip") == ("UNPACKED", {"IM000": "DECOMPRESSION_BOMB", "IM001": ""})


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_members_of_one_name_keep_each_its_own_pixels(kind, tmp_path):
    (tmp_path / "a").mkdir()
    entries = [("image.dcm", data) for _, data in members()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "zip":
            write_zip(tmp_path / "a" / "c", entries)
        else:
            write_tar(tmp_path / "a" / "c", entries, "w:gz" if kind == "tar.gz" else "w")
    _, (study,) = indexed(tmp_path / "a")
    assert study.n_files == 24
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


def test_a_name_that_ends_like_a_number_is_none(tmp_path):
    """A colon in a name is written as %3A, so that it is no number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_zip(tmp_path / "c", [("x:2", b"some text"), ("x", b"some text"), ("x", b"some text")])
    assert set(records(tmp_path / "c")[1]) == {"x%3A2", "x", "x:2"}


def v7(data):
    """A TAR without the magic of its headers, as it was before 1988."""
    data, place = bytearray(data), 0
    while any(data[place : place + 512]):
        size = int(data[place + 124 : place + 135], 8)
        data[place + 257 : place + 512] = bytes(255)
        data[place + 148 : place + 156] = b" " * 8
        data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])
        place += 512 + -(-size // 512) * 512
    return bytes(data)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_a_tar_of_the_oldest_form_is_read(pack, tmp_path):
    (tmp_path / "a").mkdir()
    write_tar(tmp_path / "plain", members())
    old = v7((tmp_path / "plain").read_bytes())
    assert b"ustar" not in old
    (tmp_path / "a" / "c").write_bytes(pack(old))
    manifest, (study,) = indexed(tmp_path / "a")
    assert left_out(manifest) == {"UNPACKED": 1}
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


NAMES = (
    "a.dcm",
    "d/" + "n" * 98,
    "p" * 90 + "/" + "n" * 90,
    "long/" * 60 + "x",
    "K\u00f6ln/\u0421\u041d\u0418\u041c\u041e\u041a.dcm",
    "a b+c;d",
)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"])
def test_names_places_and_sizes_are_those_that_tarfile_reads(form):
    draw, buffer = random.Random(1), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers={"comment": "for all"}) as archive:
        for number, name in enumerate(NAMES if form != tarfile.USTAR_FORMAT else NAMES[:3]):
            entry = tarfile.TarInfo(name)
            entry.size = draw.choice((0, 1, 511, 512, 513, 5000))
            entry.uid = 0 if form == tarfile.USTAR_FORMAT else 1 << 30
            archive.addfile(entry, io.BytesIO(bytes([number]) * entry.size))
            folder = tarfile.TarInfo(f"folder{number}")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        wanted = [(entry.name, entry.offset_data, entry.size) for entry in archive if entry.isreg()]
    assert [(entry.name, entry.start, entry.size) for entry in tars.entries(buffer, Allowance())] == wanted


def header(kind=b"0", size=0, name="x"):
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


def summed(raw):
    """A header with its checksum."""
    raw = bytearray(raw)
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def of_size(field):
    return summed(header()[:124] + field + header()[136:])


def pax(*records_):
    """A pax header, with the lengths of its records as they are given."""
    data = b"".join(records_)
    return header(b"x", len(data)) + data + bytes(-len(data) % 512)


TORN = {
    "a size below 0": of_size(b"\xff" * 12),
    "a size beyond all files": of_size(b"\x80" + b"\xff" * 11),
    "a size that is no number": of_size(b"9" * 12),
    "a size beyond the end": header(size=1 << 20),
    "a bad checksum": header()[:148] + b"7777777\0" + header()[156:],
    "half a header": header()[:300],
    "a pax record of length 0": pax(b"0 path=a\n"),
    "a pax record beyond its header": pax(b"99 path=a\n"),
    "a pax record of a long length": pax(b"9" * 400 + b" path=a\n"),
    "a pax size below 0": pax(b"11 size=-5\n"),
    "a long name of 1 MB": header(b"L", 1 << 20) + b"n" * (1 << 20),
}


@pytest.mark.parametrize("tail", TORN.values(), ids=TORN)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_a_torn_tar_ends_and_keeps_what_came_before(tail, pack, tmp_path):
    buffer = io.BytesIO()
    write_tar(tmp_path / "plain", members(2))
    whole = (tmp_path / "plain").read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    buffer.write(whole + tail + header())
    (tmp_path / "c").write_bytes(pack(buffer.getvalue()))
    own, inside = records(tmp_path / "c")
    assert own == "ARCHIVE_CORRUPT"
    assert inside.pop("x", "refused") != ""
    assert inside == {"IM000": "", "IM001": ""}


def old_gnu_sparse(name, data):
    """A sparse member: two blocks of zeros are left out before what is stored."""
    raw = bytearray(header(b"S", len(data), name))
    raw[386:410] = b"%011o\0%011o\0" % (1024, len(data))
    raw[483:495] = b"%011o\0" % (1024 + len(data))
    return summed(raw) + data + bytes(-len(data) % 512)


def old_gnu_sparse_with_a_long_map(name, data):
    raw = bytearray(old_gnu_sparse(name, data)[:512])
    raw[482] = 1
    return summed(raw) + bytes(504) + b"\1" + bytes(7) + bytes(512) + data + bytes(-len(data) % 512)


def pax_sparse(name, data):
    """The form of GNU tar today: the map stands before the data."""
    content = b"1\n1024\n%d\n" % len(data)
    content += bytes(-len(content) % 512) + data
    said = pax(b"22 GNU.sparse.major=1\n", b"22 GNU.sparse.minor=0\n")
    return said + header(b"0", len(content), name) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize("sparse", [old_gnu_sparse, old_gnu_sparse_with_a_long_map, pax_sparse])
def test_sparse_members_are_refused_and_those_behind_them_read(sparse, tmp_path):
    (name, data), *others = members(3)
    write_tar(tmp_path / "plain", others)
    (tmp_path / "c.tar").write_bytes(sparse(name, data) + (tmp_path / "plain").read_bytes())
    assert records(tmp_path / "c.tar") == ("UNPACKED", {name: "ARCHIVE_SPARSE", "IM001": "", "IM002": ""})


def test_gzipped_slices_are_read(tmp_path):
    write(tmp_path / "plain", images())
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "plain").iterdir():
        (tmp_path / "a" / (path.name + ".gz")).write_bytes(gzip.compress(path.read_bytes()))
    manifest, (study,) = indexed(tmp_path / "a")
    assert study.n_files == 24
    assert left_out(manifest) == {"UNPACKED": 24}
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


def sound():
    return to_bytes(images()[0]).getvalue()


GZIPS = {
    "in two members": (gzip.compress(sound()[:700]) + gzip.compress(sound()[700:]), {"inflated": ""}),
    "with zeros behind it": (gzip.compress(sound()) + bytes(1000), {"inflated": ""}),
    "with chance behind it": (gzip.compress(sound()) + b"chance" * 99, {"inflated": ""}),
    "cut off": (gzip.compress(sound())[:-300], {}),
    "without its checksum": (gzip.compress(sound())[:-8], {}),
    "with another checksum": (gzip.compress(sound())[:-8] + bytes(8), {}),
}


@pytest.mark.parametrize(("data", "inside"), GZIPS.values(), ids=GZIPS)
def test_a_gzipped_slice_is_read_if_it_is_whole(data, inside, tmp_path):
    (tmp_path / "x.dcm.gz").write_bytes(data)
    assert records(tmp_path / "x.dcm.gz") == ("UNPACKED" if inside else "ARCHIVE_CORRUPT", inside)


@pytest.mark.parametrize("kind", WRITERS)
def test_gzipped_slices_in_a_container_are_read_as_they_are(kind, tmp_path):
    (tmp_path / "a").mkdir()
    packed = [(f"{name}.gz", gzip.compress(data) if place % 2 else data) for place, (name, data) in enumerate(members(24))]
    WRITERS[kind](tmp_path / "a" / "c", packed)
    _, (study,) = indexed(tmp_path / "a")
    assert study.n_files == 24
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("data", "inside"), GZIPS.values(), ids=GZIPS)
def test_a_gzipped_slice_in_a_container_costs_itself_where_it_is_damaged(kind, data, inside, tmp_path):
    WRITERS[kind](tmp_path / "c", [("x.dcm.gz", data), ("y.dcm", sound())])
    assert records(tmp_path / "c") == ("UNPACKED", {"x.dcm.gz": "" if inside else "ARCHIVE_CORRUPT", "y.dcm": ""})


def test_a_container_of_too_many_members_keeps_what_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "MAX_MEMBERS", 4)
    for number, writer in enumerate((write_zip, write_tar)):
        writer(tmp_path / f"c{number}", members(6))
        own, inside = records(tmp_path / f"c{number}")
        assert (own, len(inside)) == ("DECOMPRESSION_BOMB", 4)


def test_an_inflated_stream_can_be_gone_back_in_however_far():
    data = random.Random(1).randbytes(1 << 20)
    stream = forward(lambda: gunzipped(io.BytesIO(gzip.compress(data)), Allowance()))
    draw = random.Random(2)
    for _ in range(50):
        place, length = draw.randrange(len(data) + 10), draw.randrange(100_000)
        stream.seek(place)
        assert stream.read(length) == data[place : place + length]


def test_a_member_damaged_since_it_was_indexed_is_a_reason_of_its_study(tmp_path):
    path = tmp_path / "a" / "c.zip"
    path.parent.mkdir()
    write_zip(path, members(), zipfile.ZIP_BZIP2)
    _, (study,) = indexed(tmp_path / "a")
    info, data = path.stat(), bytearray(path.read_bytes())
    data[200:300] = bytes(100)
    path.write_bytes(data)
    os.utime(path, ns=(info.st_mtime_ns, info.st_mtime_ns))
    with pytest.raises(StudyError, match="ARCHIVE_CORRUPT"):
        hu_of(tmp_path / "a", study)


def test_joined_tars_are_read_to_the_end_of_the_last(tmp_path):
    (tmp_path / "a").mkdir()
    halves = members(24)[:12], members(24)[12:]
    parts = []
    for number, half in enumerate(halves):
        write_tar(tmp_path / f"{number}", half)
        parts.append((tmp_path / f"{number}").read_bytes())
    (tmp_path / "a" / "c.tar").write_bytes(b"".join(parts) + b"chance behind the end")
    _, (study,) = indexed(tmp_path / "a")
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


def test_of_joined_zips_the_lack_of_the_first_is_told(tmp_path):
    parts = []
    for number, half in enumerate((members(24)[:12], members(24)[12:])):
        write_zip(tmp_path / f"{number}", half)
        parts.append((tmp_path / f"{number}").read_bytes())
    (tmp_path / "c.zip").write_bytes(b"".join(parts))
    own, inside = records(tmp_path / "c.zip")
    assert (own, set(inside.values())) == ("ARCHIVE_CORRUPT", {""})


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress], ids=["bzip2", "xz"])
def test_a_packing_that_is_not_read_is_told_from_what_is_no_container(pack, tmp_path):
    (tmp_path / "c").write_bytes(pack(sound()))
    assert records(tmp_path / "c") == ("ARCHIVE_CORRUPT", {})
    write_zip(tmp_path / "z", [("c", pack(sound())), ("y.dcm", sound())])
    assert records(tmp_path / "z") == ("UNPACKED", {"c": "ARCHIVE_NESTED", "y.dcm": ""})
