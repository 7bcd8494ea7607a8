"""Walk one folder, read headers: every file found becomes exactly one record, whatever is wrong with it."""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.tag import Tag

from pipeline.archive.decode import COMPRESSED, DEFLATED, MAX_MATRIX, NATIVE
from pipeline.errors import Reason
from pipeline.records import Facts, SliceSource

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_INFLATED = 256 << 20
PIXEL_DATA = 0x7FE00010
KEYWORDS = [
    "PatientID",
    "IssuerOfPatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "SOPClassUID",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ConvolutionKernel",
    "SliceThickness",
    "KVP",
    "Manufacturer",
    "ManufacturerModelName",
    "AcquisitionNumber",
    "ContrastBolusAgent",
]
TAGS = [Tag(keyword) for keyword in KEYWORDS]


@dataclass(frozen=True, slots=True)
class Header:
    """What grouping and choosing need of one DICOM image; `problem` says why it cannot be used as a slice."""

    study_uid: str
    series_uid: str
    patient_id: str = ""
    sop_uid: str = ""
    sop_class: str = ""
    image_type: tuple[str, ...] = ()
    position: tuple[float, ...] = ()
    orientation: tuple[float, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    acquisition: str = ""
    contrast: bool = False
    problem: str = ""
    source: SliceSource = field(default_factory=lambda: SliceSource("", 0.0))
    facts: Facts = field(default_factory=Facts)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file found: an image's header, an exported picture, or the reason for which it is left out."""

    path: str
    size: int = 0
    mtime_ns: int = 0
    reason: str = ""
    header: Header | None = None
    picture: bool = False


def portable(name: str) -> str:
    """A file name of any bytes as plain text; printable ASCII stays as it is."""
    return quote_from_bytes(os.fsencode(name), safe=" !#$&'()+,;=@[]{}^~/")


def native(path: str) -> str:
    """The file system's own name of a `portable` one."""
    return os.fsdecode(unquote_to_bytes(path))


def list_folder(root: Path, folder: str) -> tuple[list[str], list[FileRecord]]:
    """Sub-folders and files of one folder, both relative to `root`; files not yet read, but those already hopeless."""
    folders: list[str] = []
    files: list[FileRecord] = []
    try:
        entries = sorted(os.scandir(root / native(folder)), key=lambda entry: entry.name)
    except PermissionError:
        return [], [FileRecord(folder, reason=Reason.PERMISSION_DENIED)]
    except OSError:
        return [], [FileRecord(folder, reason=Reason.IO_ERROR)]
    for entry in entries:
        name = portable(entry.name)
        path = f"{folder}/{name}" if folder else name
        if entry.is_dir(follow_symlinks=False):
            folders.append(path)
        else:
            files.append(_looked_at(entry, path))
    return folders, files


def _looked_at(entry: os.DirEntry[str], path: str) -> FileRecord:
    try:
        if entry.is_symlink() and entry.is_dir():
            return FileRecord(path, reason=Reason.SYMLINK_LOOP)
        info = entry.stat()
    except OSError:
        return FileRecord(path, reason=Reason.FILE_VANISHED)
    if not stat.S_ISREG(info.st_mode):
        return FileRecord(path, reason=Reason.NOT_REGULAR_FILE)
    reason = "" if info.st_size else Reason.EMPTY_FILE
    picture = path.lower().endswith(IMAGE_SUFFIXES)
    return FileRecord(path, info.st_size, info.st_mtime_ns, reason=reason, picture=picture)


def scan_file(root: Path, file: FileRecord) -> FileRecord:
    """`file` with its header, or with the reason for which it has none. Never raises for what a file holds."""
    if file.reason or file.picture:
        return file
    try:
        with (root / native(file.path)).open("rb") as stream:
            return FileRecord(file.path, file.size, file.mtime_ns, header=_header(stream, file))
    except FileNotFoundError:
        reason = Reason.FILE_VANISHED
    except PermissionError:
        reason = Reason.PERMISSION_DENIED
    except InvalidDicomError:
        reason = Reason.NOT_DICOM
    except RecursionError:
        reason = Reason.HEADER_TOO_DEEP
    except OSError:
        reason = Reason.IO_ERROR
    except Exception:  # noqa: BLE001  pydicom raises every kind for damaged headers, and each means the same here
        reason = Reason.HEADER_CORRUPT
    return FileRecord(file.path, file.size, file.mtime_ns, reason=reason)


def _header(stream: Any, file: FileRecord) -> Header:
    preamble = stream.read(132)
    if preamble[128:] != b"DICM":
        raise InvalidDicomError
    meta = read_file_meta_info(Path(stream.name))
    syntax = str(meta.TransferSyntaxUID)
    stream.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
    start = stream.tell()
    if syntax == DEFLATED:
        engine = zlib.decompressobj(-zlib.MAX_WBITS)
        stream = io.BytesIO(engine.decompress(stream.read(), MAX_INFLATED))
    implicit, little = syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2"
    found: list[int] = []

    def at_pixels(tag: int, _: str | None, length: int) -> bool:
        if tag == PIXEL_DATA:
            found.append(length)
        return tag == PIXEL_DATA

    data = read_dataset(stream, implicit, little, stop_when=at_pixels, specific_tags=TAGS)
    if not data.get("StudyInstanceUID") or not data.get("SeriesInstanceUID"):
        raise ValueError("no UIDs")
    length = found[0] if found else -1
    value = stream.tell() + (8 if implicit else 12) if found else 0
    place = (start, 0, value) if syntax == DEFLATED else (value, length, 0)
    return _described(data, syntax, place, file, length)


def _described(data: Any, syntax: str, place: tuple[int, int, int], file: FileRecord, length: int) -> Header:
    problems: list[Reason] = []

    def number(keyword: str, reason: Reason, default: float = 0.0) -> float:
        """The value as a number; the problem is noted where it is none."""
        try:
            return float(data[keyword].value)
        except (KeyError, TypeError, ValueError, AttributeError):
            problems.append(reason)
            return default

    def numbers(keyword: str) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in data[keyword].value)
        except (KeyError, TypeError, ValueError):
            return ()

    whole: Callable[[str, int], int] = lambda keyword, default: int(data.get(keyword) or default)  # noqa: E731
    rows, columns = whole("Rows", 0), whole("Columns", 0)
    slope, intercept = number("RescaleSlope", Reason.NOT_HU), number("RescaleIntercept", Reason.NOT_HU)
    if not (abs(slope) < 1e6 and abs(intercept) < 1e6) or slope == 0 or data.get("RescaleType", "HU") not in ("HU", ""):
        problems.append(Reason.NOT_HU)
    bits = whole("BitsAllocated", 0)
    if max(rows, columns) > MAX_MATRIX:
        problems.insert(0, Reason.DECOMPRESSION_BOMB)
    problems[:0] = _pixel_problems(data, syntax, file, (length, rows * columns * bits // 8, place[0]))
    text = lambda keyword: " ".join(str(data.get(keyword) or "").split())  # noqa: E731
    return Header(
        study_uid=str(data.StudyInstanceUID),
        series_uid=str(data.SeriesInstanceUID),
        patient_id=f"{text('IssuerOfPatientID')}\\{text('PatientID')}",
        sop_uid=text("SOPInstanceUID"),
        sop_class=text("SOPClassUID"),
        image_type=tuple(str(part).strip().upper() for part in data.get("ImageType") or ()),
        position=numbers("ImagePositionPatient"),
        orientation=numbers("ImageOrientationPatient"),
        spacing_mm=numbers("PixelSpacing"),
        acquisition=text("AcquisitionNumber"),
        contrast=bool(text("ContrastBolusAgent")),
        problem=problems[0].value if problems else "",
        source=SliceSource(
            file.path,
            0.0,
            offset=place[0],
            length=max(0, place[1]) if syntax in NATIVE else 0,
            frame=place[2],
            rows=rows,
            columns=columns,
            bits_allocated=bits,
            bits_stored=whole("BitsStored", bits),
            signed=bool(data.get("PixelRepresentation", 0)),
            slope=slope,
            intercept=intercept,
            padding=_padding(data, "PixelPaddingValue"),
            padding_limit=_padding(data, "PixelPaddingRangeLimit"),
            syntax=syntax,
            size=file.size,
            mtime_ns=file.mtime_ns,
        ),
        facts=Facts(
            text("Manufacturer"),
            text("ManufacturerModelName"),
            "\\".join(map(str, data.get("ConvolutionKernel") or ()))
            if not isinstance(data.get("ConvolutionKernel"), str)
            else text("ConvolutionKernel"),
            _optional(data, "SliceThickness"),
            _optional(data, "KVP"),
        ),
    )


def _pixel_problems(data: Any, syntax: str, file: FileRecord, sizes: tuple[int, int, int]) -> list[Reason]:
    """What the header alone says against the pixels; `sizes`: value length, native length, offset in the file."""
    length, native, offset = sizes
    if length in (-1, 0):
        return [Reason.NO_PIXEL_DATA]
    if syntax not in NATIVE | COMPRESSED:
        return [Reason.UNSUPPORTED_TRANSFER_SYNTAX]
    grey = data.get("SamplesPerPixel", 1) == 1 and str(data.get("PhotometricInterpretation", "")).startswith("MONO")
    frames = int(data.get("NumberOfFrames") or 1)
    if not grey or frames != 1 or int(data.get("BitsAllocated", 0)) not in (8, 16) or native == 0:
        return [Reason.PIXEL_FORMAT]
    if syntax in NATIVE and syntax != DEFLATED:
        if file.size < offset + native or length < native:
            return [Reason.TRUNCATED_PIXEL_DATA]
        if length > native + 1:
            return [Reason.PIXEL_FORMAT]
    return []


def _padding(data: Any, keyword: str) -> int | None:
    value = data.get(keyword)
    if isinstance(value, bytes):
        value = int.from_bytes(value[:2], "little", signed=bool(data.get("PixelRepresentation", 0)))
    return int(value) if isinstance(value, int) else None


def _optional(data: Any, keyword: str) -> float | None:
    try:
        return float(data[keyword].value)
    except (KeyError, TypeError, ValueError):
        return None
