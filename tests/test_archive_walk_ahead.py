"""The short way through plain elements, and how much is read ahead, decide nothing: what is read of a header stays the same."""

import io
import random
import sys

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.uid import UID

from pipeline.archive import elements, headers, list_folder, scan_file
from pipeline.archive.allowance import Allowance
from pipeline.archive.elements import Walk
from pipeline.archive.frame import StreamOrigin
from pipeline.archive.tags import SEQUENCES, WANTED
from pipeline.errors import StudyError
from tests.fabricate import images, write
from tests.test_archive_fuzz import mutated
from tests.test_archive_syntaxes import ENHANCED, multi_frame

BASE = "1.2.840.10008.1.2"


def private(data):
    """With elements that no reader knows: longer than what is read ahead, and a sequence of items of any length."""
    data.add_new(0x00091010, "OB", bytes(3 * elements.PIECE))
    data.add_new(0x00091011, "UN", bytes(600))
    data.add_new(0x00091012, "SQ", images(n_slices=2))
    return data


def written(data, *, implicit=False, little=True):
    """The bytes of a file in one of the three forms; of the swapped one only the header is of use."""
    data.file_meta.TransferSyntaxUID = UID(BASE + (".1" if little else ".2") * (not implicit))
    stream = io.BytesIO()
    dcmwrite(stream, data, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return stream.getvalue()


FILES = {
    "explicit": lambda: written(private(images()[0])),
    "implicit": lambda: written(private(images()[0]), implicit=True),
    "big endian": lambda: written(images()[0], little=False),
    "frames": lambda: written(multi_frame(ENHANCED)),
}


def read(data):
    """All that is read of a file's bytes, or why not."""
    try:
        return headers.read_headers(io.BytesIO(data), len(data), StreamOrigin("x", len(data)), Allowance())
    except StudyError as error:
        return error.reason


@pytest.mark.parametrize("form", FILES)
def test_the_short_way_and_what_is_read_ahead_decide_nothing(form, monkeypatch):
    draw = random.Random(20260)
    sound = FILES[form]()
    files = [sound, *(mutated(sound, draw) for _ in range(150))]
    found = [read(data) for data in files]
    assert len(found[0]) == (24 if form == "frames" else 1)
    assert sum(isinstance(one, str) for one in found) > 10
    monkeypatch.setattr(Walk, "_take_plain", lambda *_: None)
    assert [read(data) for data in files] == found
    monkeypatch.undo()
    for piece in (1, 13, 100):
        monkeypatch.setattr(elements, "PIECE", piece)
        assert [read(data) for data in files] == found


def test_a_tag_whose_value_is_kept_is_no_sequence():
    assert WANTED.isdisjoint(SEQUENCES)


def test_a_header_is_read_from_the_disk_once(tmp_path, monkeypatch):
    """A sound slice takes one read of its file, and no element that is plain is looked at by itself."""
    reads = []

    class Counted(io.BytesIO):
        def read(self, size=-1):
            reads.append(size)
            return super().read(size)

    n_heads = []
    head = Walk._head
    monkeypatch.setattr(Walk, "_head", lambda self, form, **more: n_heads.append(1) or head(self, form, **more))
    data = written(images()[0])
    headers.read_headers(Counted(data), len(data), StreamOrigin("x", len(data)), Allowance())
    assert len(reads) == 1
    assert len(n_heads) == 1  # the pixels', where the walk ends


def calls(work):
    """How many functions are called, of Python and of C: what does not depend on the machine or its mood."""
    seen = []
    sys.setprofile(lambda _, event, __: seen.append(1) if event in ("call", "c_call") else None)
    try:
        work()
    finally:
        sys.setprofile(None)
    return len(seen)


def test_a_header_costs_a_sixth_of_the_calls_that_pydicom_takes(tmp_path):
    write(tmp_path, images())
    _, files, _ = list_folder(tmp_path, "")

    def theirs():
        for file in files:
            for element in dcmread(tmp_path / file.path, stop_before_pixels=True, specific_tags=list(WANTED)):
                _ = element.value

    def ours():
        for file in files:
            scan_file(tmp_path, file)

    ours()
    theirs()  # what is loaded at the first use is loaded
    assert calls(ours) < min(calls(theirs) / 6, 600 * len(files))
