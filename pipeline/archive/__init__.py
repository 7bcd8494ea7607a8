"""The DICOM door: walk, containers, headers, series choice, decoding; also NIfTI volumes and exported JPEG or PNG slices."""

from pipeline.archive.container import ONLY
from pipeline.archive.decode import Decoder
from pipeline.archive.exported import read_mask
from pipeline.archive.found import FileRecord, FoundFile, Header, VolumeFile
from pipeline.archive.listed import Listed, is_list, listed_files, listed_study, read_list, root_of
from pipeline.archive.nifti import build_volume_study, folder_patients, volume_name
from pipeline.archive.packed import every_slice, pack
from pipeline.archive.patient import IDENTITY_RULE
from pipeline.archive.pictures import build_picture_study, picture_folder
from pipeline.archive.ranking import SeriesRank, why_lost
from pipeline.archive.rules import asked
from pipeline.archive.scan import scan_file
from pipeline.archive.selection import build_study
from pipeline.archive.volume import read_volume
from pipeline.archive.walk import list_folder

__all__ = [
    "IDENTITY_RULE",
    "ONLY",
    "Decoder",
    "FileRecord",
    "FoundFile",
    "Header",
    "Listed",
    "SeriesRank",
    "VolumeFile",
    "asked",
    "build_picture_study",
    "build_study",
    "build_volume_study",
    "every_slice",
    "folder_patients",
    "is_list",
    "list_folder",
    "listed_files",
    "listed_study",
    "pack",
    "picture_folder",
    "read_list",
    "read_mask",
    "read_volume",
    "root_of",
    "scan_file",
    "volume_name",
    "why_lost",
]
