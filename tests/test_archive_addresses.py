"""What is read is what was indexed: every address is proven by the bytes that indexing saw there."""

import gzip
import importlib.util
import io
import os
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from pipeline.archive import child
from pipeline.archive.decode import Decoder
from pipeline.archive.originals import read_originals
from pipeline.archive.syntax import COMPRESSED, PICTURE
from pipeline.errors import StudyError
from pipeline.phantom.images import to_bytes
from tests.fabricate import N_SLICES, hu_of, images, indexed, phantom, write
from tests.test_archive_files import members, write_tar, write_zip

FORMS = ("files", "zip", "tar", "tar.gz")


def stored_as(folder, form, entries):
    """Slices as files or as one container, each time of the same size and age."""
    folder.mkdir(exist_ok=True)
    if form == "files":
        for name, data in entries:
            (folder / name).write_bytes(data)
    elif form == "zip":
        write_zip(folder / "c", entries, zipfile.ZIP_STORED)
    else:
        write_tar(folder / "c", entries)
        if form == "tar.gz":
            (folder / "c").write_bytes(gzip.compress((folder / "c").read_bytes(), 0))
    for path in folder.iterdir():
        os.utime(path, ns=(10**18, 10**18))


def exchanged(entries):
    """The same names, the contents of two of them exchanged."""
    names, contents = map(list, zip(*entries, strict=True))
    contents[3], contents[12] = contents[12], contents[3]
    return list(zip(names, contents, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_slices_exchanged_since_they_were_indexed_are_refused(form, tmp_path):
    stored_as(tmp_path / "a", form, members())
    _, (study,) = indexed(tmp_path / "a")
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)
    stored_as(tmp_path / "a", form, exchanged(members()))
    with pytest.raises(StudyError, match="FILE_VANISHED"):
        hu_of(tmp_path / "a", study)
    with pytest.raises(StudyError, match="FILE_VANISHED"):
        read_originals(tmp_path / "a", study.candidates[0].slices)


@pytest.mark.parametrize("form", FORMS)
def test_originals_are_the_slices_own_headers(form, tmp_path):
    stored_as(tmp_path / "a", form, members())
    _, (study,) = indexed(tmp_path / "a")
    headers = read_originals(tmp_path / "a", study.candidates[0].slices)
    places = [float(header.ImagePositionPatient[2]) for header in headers]
    assert places == sorted(places)


def without_central_order(path):
    """The table of contents lists the members in another order than they stand in."""
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    size, start = struct.unpack("<II", data[end + 12 : end + 20])
    entries = [b"PK\x01\x02" + part for part in data[start : start + size].split(b"PK\x01\x02")[1:]]
    path.write_bytes(data[:start] + b"".join(entries[::-1]) + data[end:])


def test_a_table_of_contents_in_another_order_and_of_one_name_leads_to_each_members_own_pixels(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(tmp_path / "a" / "c.zip", [("image.dcm", data) for _, data in members()])
    without_central_order(tmp_path / "a" / "c.zip")
    _, (study,) = indexed(tmp_path / "a")
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


def test_a_zip_behind_a_program_is_read_at_its_members_own_places(tmp_path):
    """A self-extracting ZIP: everything stands behind what the table of contents counts from."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members():
            archive.writestr(name, data)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c.zip").write_bytes(b"PK\x03\x04 a stub of a program " * 40 + buffer.getvalue())
    _, (study,) = indexed(tmp_path / "a")
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


def sparse(name, data):
    """A member of GNU's old sparse form: a hole before what is stored."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = b"S", len(data)
    raw = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    raw[386:410] = b"%011o\0%011o\0" % (512, len(data))
    raw[483:495] = b"%011o\0" % (512 + len(data))
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw) + data + bytes(-len(data) % 512)


def test_sparse_members_between_slices_shift_none_of_them(tmp_path):
    (tmp_path / "a").mkdir()
    parts = []
    for name, data in members():
        write_tar(tmp_path / "one", [(name, data)])
        parts += [sparse("s" + name, data), (tmp_path / "one").read_bytes()[: 512 + -(-len(data) // 512) * 512]]
    (tmp_path / "a" / "c.tar").write_bytes(b"".join(parts) + bytes(1024))
    manifest, (study,) = indexed(tmp_path / "a")
    assert {event.code: event.count for event in manifest.heading.events} == {"UNPACKED": 1, "ARCHIVE_SPARSE": N_SLICES}
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


def test_a_short_file_is_proven_by_all_of_it(tmp_path):
    write(tmp_path / "a", images())
    _, (study,) = indexed(tmp_path / "a")
    checks = {source.check for source in study.candidates[0].slices}
    size = len(to_bytes(images()[0]).getvalue())
    assert len(checks) == N_SLICES
    assert {int(check.partition("-")[0]) for check in checks} <= set(range(size - 100, size + 100))


def test_the_childs_table_names_the_syntaxes_that_the_door_lets_in():
    spec = importlib.util.spec_from_file_location("decoders", child.SCRIPT)
    decoders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(decoders)
    sys.modules.pop("decoders", None)
    assert set(decoders.DECODERS) == {*COMPRESSED, PICTURE}


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.5", "1.2.3", ""])
def test_a_syntax_without_a_decoder_is_refused_by_the_child_itself(syntax):
    with Decoder() as decoder, pytest.raises(StudyError, match="UNSUPPORTED_TRANSFER_SYNTAX"):
        decoder.child.ask(b"\xff\xd8\xff", syntax)
