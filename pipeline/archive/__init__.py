"""The DICOM door: walk, containers, headers, series choice, decoding; also folders of exported JPEG or PNG slices."""

from pipeline.archive.decode import Decoder
from pipeline.archive.found import FileRecord, FoundFile, Header
from pipeline.archive.pictures import build_picture_study, picture_folder
from pipeline.archive.scan import scan_file
from pipeline.archive.selection import build_study
from pipeline.archive.volume import read_volume
from pipeline.archive.walk import list_folder

__all__ = [
    "Decoder",
    "FileRecord",
    "FoundFile",
    "Header",
    "build_picture_study",
    "build_study",
    "list_folder",
    "picture_folder",
    "read_volume",
    "scan_file",
]
