"""The public DICOM files that pydicom ships: each is read as pydicom reads it, or refused for what it is."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from pipeline.archive import Decoder, list_folder, scan_file
from pipeline.archive.reading import read_frames
from pipeline.errors import StudyError
from tests.fabricate import hu_of, indexed, write

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
COLOUR = "PIXEL_FORMAT"
SAME, SAME_BUT_NO_HU, LOSSY = "same", "same, NOT_HU", "decoded, NOT_HU"
"""As pydicom's pixels; and no CT; and pydicom has no decoder here."""
WANTED = {
    "693_J2KI.dcm": SAME,
    "CT_small.dcm": SAME,
    "ExplVR_BigEnd.dcm": COLOUR,
    "ExplVR_BigEndNoMeta.dcm": "NOT_DICOM",
    "ExplVR_LitEndNoMeta.dcm": "NO_PIXEL_DATA",
    "GDCMJ2K_TextGBR.dcm": COLOUR,
    "J2K_pixelrep_mismatch.dcm": SAME,
    "JPEG-lossy.dcm": LOSSY,
    "JPEG2000-embedded-sequence-delimiter.dcm": "DECOMPRESSION_BOMB",
    "JPEG2000.dcm": SAME_BUT_NO_HU,
    "JPEGLSNearLossless_08.dcm": "MISSING_UID",
    "JPEGLSNearLossless_16.dcm": "MISSING_UID",
    "JPGExtended.dcm": LOSSY,
    "MR_small.dcm": SAME_BUT_NO_HU,
    "MR_small_RLE.dcm": SAME_BUT_NO_HU,
    "MR_small_bigendian.dcm": SAME_BUT_NO_HU,
    "MR_small_expb.dcm": SAME_BUT_NO_HU,
    "MR_small_implicit.dcm": SAME_BUT_NO_HU,
    "MR_small_jp2klossless.dcm": SAME_BUT_NO_HU,
    "MR_small_jpeg_ls_lossless.dcm": SAME_BUT_NO_HU,
    "MR_small_padded.dcm": "PIXEL_FORMAT",
    "MR_truncated.dcm": "TRUNCATED_PIXEL_DATA",
    "README.txt": "NOT_DICOM",
    "SC_jpeg_no_color_transform.dcm": COLOUR,
    "SC_jpeg_no_color_transform_2.dcm": COLOUR,
    "SC_rgb_dcmtk_+eb+cr.dcm": COLOUR,
    "SC_rgb_dcmtk_+eb+cy+n1.dcm": COLOUR,
    "SC_rgb_dcmtk_+eb+cy+n2.dcm": COLOUR,
    "SC_rgb_dcmtk_+eb+cy+np.dcm": COLOUR,
    "SC_rgb_dcmtk_+eb+cy+s2.dcm": COLOUR,
    "SC_rgb_dcmtk_+eb+cy+s4.dcm": COLOUR,
    "SC_rgb_gdcm_KY.dcm": COLOUR,
    "SC_rgb_jls_lossy_line.dcm": "MISSING_UID",
    "SC_rgb_jls_lossy_sample.dcm": "MISSING_UID",
    "SC_rgb_jpeg.dcm": COLOUR,
    "SC_rgb_jpeg_app14_dcmd.dcm": COLOUR,
    "SC_rgb_jpeg_dcmd.dcm": COLOUR,
    "SC_rgb_jpeg_dcmtk.dcm": COLOUR,
    "SC_rgb_jpeg_gdcm.dcm": COLOUR,
    "SC_rgb_jpeg_lossy_gdcm.dcm": COLOUR,
    "SC_rgb_rle.dcm": COLOUR,
    "SC_rgb_rle_16bit.dcm": COLOUR,
    "SC_rgb_rle_16bit_2frame.dcm": COLOUR,
    "SC_rgb_rle_2frame.dcm": COLOUR,
    "SC_rgb_rle_32bit.dcm": COLOUR,
    "SC_rgb_rle_32bit_2frame.dcm": COLOUR,
    "SC_rgb_small_odd.dcm": COLOUR,
    "SC_rgb_small_odd_big_endian.dcm": COLOUR,
    "SC_rgb_small_odd_jpeg.dcm": COLOUR,
    "SC_ybr_full_422_uncompressed.dcm": COLOUR,
    "UN_sequence.dcm": "HEADER_CORRUPT",
    "badVR.dcm": "PIXEL_FORMAT",
    "crayons.icc": "NOT_DICOM",
    "empty_charset_LEI.dcm": "HEADER_CORRUPT",
    "examples_jpeg2k.dcm": COLOUR,
    "examples_overlay.dcm": SAME_BUT_NO_HU,
    "examples_palette.dcm": COLOUR,
    "examples_rgb_color.dcm": COLOUR,
    "examples_ybr_color.dcm": COLOUR,
    "image_dfl.dcm": SAME_BUT_NO_HU,
    "liver_1frame.dcm": "PIXEL_FORMAT",
    "liver_expb_1frame.dcm": "PIXEL_FORMAT",
    "meta_missing_tsyntax.dcm": "HEADER_CORRUPT",
    "nested_priv_SQ.dcm": "MISSING_UID",
    "no_meta.dcm": "NOT_DICOM",
    "no_meta_group_length.dcm": "HEADER_CORRUPT",
    "priv_SQ.dcm": "HEADER_CORRUPT",
    "reportsi.dcm": "NO_PIXEL_DATA",
    "reportsi_with_empty_number_tags.dcm": "NO_PIXEL_DATA",
    "rtdose.dcm": "PIXEL_FORMAT",
    "rtdose_1frame.dcm": "PIXEL_FORMAT",
    "rtdose_expb.dcm": "PIXEL_FORMAT",
    "rtdose_expb_1frame.dcm": "PIXEL_FORMAT",
    "rtdose_rle.dcm": "PIXEL_FORMAT",
    "rtdose_rle_1frame.dcm": "PIXEL_FORMAT",
    "rtplan.dcm": "NO_PIXEL_DATA",
    "rtplan.dump": "NOT_DICOM",
    "rtplan_truncated.dcm": "HEADER_CORRUPT",
    "rtstruct.dcm": "NO_PIXEL_DATA",
    "rtstruct.dump": "NOT_DICOM",
    "test-SR.dcm": "NO_PIXEL_DATA",
    "test1.json": "NOT_DICOM",
    "test_PN.json": "NOT_DICOM",
    "waveform_ecg.dcm": "NO_PIXEL_DATA",
    "zipMR.gz": SAME_BUT_NO_HU,
}
"""A file that pydicom reads only because it is forced to, or that lacks UIDs, is no slice of a study."""


@pytest.fixture(scope="module")
def decoder():
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def found():
    """Every file of the folder, by name."""
    _, files, _ = list_folder(FILES, "")
    return {file.path: file for file in files}


def judged(file, decoder):
    """Why a file is refused, or how its pixels compare with pydicom's."""
    record = scan_file(FILES, file).records[-1]
    if record.reason:
        return record.reason
    (header,) = record.headers
    problem = "" if header.problem == "NOT_HU" else header.problem
    if problem:
        return problem
    try:
        (frame,) = read_frames(FILES, [header.source])
        pixels = decoder.decode(frame, header.source)
    except StudyError as error:
        return error.reason
    return compared(file.path, pixels.values) + (", NOT_HU" if header.problem else "")


def compared(name, values):
    if name == "zipMR.gz":
        name = "MR_small.dcm"
    try:
        wanted = pydicom.dcmread(FILES / name).pixel_array
    except RuntimeError:
        return "decoded"
    return "same" if np.array_equal(wanted, values) else "other pixels"


def test_every_file_is_listed_here(found):
    assert set(found) == set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_a_public_file_is_read_as_pydicom_reads_it_or_refused_for_what_it_is(name, found, decoder):
    assert judged(found[name], decoder) == WANTED[name]


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        pytest.param("693_J2KI.dcm", marks=pytest.mark.long),
        pytest.param("J2K_pixelrep_mismatch.dcm", marks=pytest.mark.long),
    ],
)
def test_a_series_of_a_public_slice_has_the_units_that_pydicom_gives(name, tmp_path):
    slices = []
    for place in range(20):
        data = pydicom.dcmread(FILES / name)
        data.ImagePositionPatient = [-100, -100, 8.0 * place]
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name, str(place)])
        slices.append(data)
    write(tmp_path / "a", slices)
    _, (study,) = indexed(tmp_path / "a")
    pixels = slices[0].pixel_array
    wanted = pixels * float(slices[0].RescaleSlope) + float(slices[0].RescaleIntercept)
    if "PixelPaddingValue" in slices[0]:
        wanted[pixels == slices[0].PixelPaddingValue] = -1024
    assert np.array_equal(hu_of(tmp_path / "a", study), np.broadcast_to(np.clip(wanted, -1024, 3071), (20, *pixels.shape)))
