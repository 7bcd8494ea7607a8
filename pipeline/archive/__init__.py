"""The DICOM door: walk, headers, series choice, decoding; also folders of exported JPEG or PNG slices."""

from pipeline.archive.decode import Decoder
from pipeline.archive.headers import FileRecord, Header, list_folder, scan_file
from pipeline.archive.selection import build_studies
from pipeline.archive.volume import read_volume

__all__ = ["Decoder", "FileRecord", "Header", "build_studies", "list_folder", "read_volume", "scan_file"]
