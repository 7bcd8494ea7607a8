"""Every transfer syntax and every form of CT object gives the same Hounsfield units."""

import csv
import json

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid

from pipeline.phantom.chest import chest
from pipeline.phantom.images import compress, series, to_bytes
from tests.fabricate import hu_of, images, indexed, left_out, phantom, verdict, write

BASE = "1.2.840.10008.1.2"
LOSSLESS = ("", ".1", ".2", ".1.99", ".4.57", ".4.70", ".4.80", ".4.90", ".5")
LOSSY = (".4.81", ".4.91")
NOT_HU = (".4.50", ".4.51")
NO_DECODER = (".4.53", ".4.55")
ENHANCED, LEGACY = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("vendor", [0, 1], ids=["unsigned", "signed"])
def test_a_phantom_in_any_lossless_syntax_gives_its_own_hu(syntax, vendor, tmp_path):
    data_sets = images(vendor=vendor)
    for data in data_sets:
        compress(data, BASE + syntax)
    write(tmp_path / "a", data_sets)
    _, (study,) = indexed(tmp_path / "a")
    y, x = np.ogrid[-1:1:32j, -1:1:32j]
    inside = x**2 + y**2 <= 1
    assert np.array_equal(hu_of(tmp_path / "a", study)[:, inside], phantom().hu[:, inside])


def group(**values):
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return Sequence([item])


def multi_frame(sop_class, *, vendor=0, slices=None):
    """A series, the fabricated one or `slices`, as one object: its geometry and rescale stand in functional groups."""
    slices = slices or images(vendor=vendor)
    data = dcmread(to_bytes(slices[0]))
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = sop_class
    data.NumberOfFrames = len(slices)
    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence = group(PixelSpacing=data.PixelSpacing, SliceThickness=data.SliceThickness)
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=data.ImageOrientationPatient)
    shared.PixelValueTransformationSequence = group(
        RescaleSlope=data.RescaleSlope, RescaleIntercept=data.RescaleIntercept, RescaleType="HU"
    )
    shared.CTImageFrameTypeSequence = group(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    shared.CTReconstructionSequence = group(ConvolutionKernel="B70f")
    for ct_slice in slices:
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=ct_slice.ImagePositionPatient)
        frame.FrameContentSequence = group(FrameAcquisitionNumber=1)
        frames.append(frame)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "ConvolutionKernel"):
        delattr(data, keyword)
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        delattr(data, keyword)
    data.PixelData = b"".join(ct_slice.PixelData for ct_slice in slices)
    return data


def fragmented(data, *, has_bot, fragments):
    frames = np.frombuffer(data.PixelData, "<u2").reshape(-1, data.Rows, data.Columns)
    codes = [imagecodecs.ljpeg_encode(frame) for frame in frames]
    codes = [code + bytes(len(code) % 2) for code in codes]
    data.PixelData = encapsulate(codes, fragments_per_frame=fragments, has_bot=has_bot)
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = UID(BASE + ".4.70")


FORMS = {
    "native": lambda _: None,
    "deflated": lambda data: setattr(data.file_meta, "TransferSyntaxUID", UID(BASE + ".1.99")),
    "RLE": lambda data: data.compress(UID(BASE + ".5"), generate_instance_uid=False),
    "JPEG with offset table": lambda data: fragmented(data, has_bot=True, fragments=1),
    "JPEG without": lambda data: fragmented(data, has_bot=False, fragments=1),
    "JPEG in fragments": lambda data: fragmented(data, has_bot=True, fragments=3),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("sop_class", [ENHANCED, LEGACY], ids=["enhanced", "legacy converted"])
def test_frames_of_one_object_are_the_slices_of_a_series(sop_class, form, tmp_path):
    data = multi_frame(sop_class)
    form(data)
    write(tmp_path / "a", [data])
    manifest, (study,) = indexed(tmp_path / "a")
    (series,) = study.candidates
    assert manifest.heading.n_files == study.n_files == 1
    assert series.events == ()
    assert series.facts.kernel == "B70f"
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


def test_frames_that_cannot_be_told_apart_are_a_pixel_format(tmp_path):
    data = multi_frame(ENHANCED)
    fragmented(data, has_bot=False, fragments=2)
    write(tmp_path / "a", [data])
    assert verdict(tmp_path / "a")[0] == "PIXEL_FORMAT"


def test_a_multi_frame_object_cut_short_is_truncated(tmp_path):
    data = multi_frame(ENHANCED)
    fragmented(data, has_bot=True, fragments=1)
    (path,) = write(tmp_path / "a", [data])
    path.write_bytes(path.read_bytes()[:-5000])
    assert verdict(tmp_path / "a")[0] == "TRUNCATED_PIXEL_DATA"


def real_slices(real_data):
    """(syntax, path) of the real slice in 15 transfer syntaxes."""
    for path in sorted((real_data / "transfer-syntaxes").glob("CTImage.dcm_*")):
        yield path.name.removesuffix(".dcm").rpartition("_")[2].removeprefix(BASE), path


@pytest.fixture(scope="module")
def tree(real_data, tmp_path_factory):
    """Of every syntax one series of 24 times the real slice, 8 mm apart: (folder, syntax of each study UID)."""
    folder, syntaxes = tmp_path_factory.mktemp("tree") / "a", {}
    for syntax, path in real_slices(real_data):
        study, series = generate_uid(), generate_uid()
        data_sets = []
        for place in range(24):
            data = dcmread(path)
            data.StudyInstanceUID, data.SeriesInstanceUID, data.PatientID = study, series, f"P{syntax}"
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            data.ImagePositionPatient = [*data.ImagePositionPatient[:2], 8.0 * place]
            data_sets.append(data)
        write(folder / path.name, data_sets)
        syntaxes[str(study)] = syntax
    return folder, syntaxes


@pytest.mark.real_data
def test_the_real_slice_in_every_lossless_syntax_decodes_to_identical_pixels(tree):
    folder, syntaxes = tree
    _, studies = indexed(folder)
    found = {syntaxes[study.study_uid]: study for study in studies}
    assert set(found) == {*LOSSLESS, *LOSSY, *NOT_HU, *NO_DECODER}
    plain = hu_of(folder, found[""])
    assert all(np.array_equal(hu_of(folder, found[syntax]), plain) for syntax in LOSSLESS)
    assert all(np.abs(hu_of(folder, found[syntax]).astype(int) - plain).mean() < 10 for syntax in LOSSY)
    for syntax in NOT_HU:
        assert "NOT_HU" in {event.code for event in found[syntax].candidates[0].events}
        assert hu_of(folder, found[syntax]).shape == plain.shape
    assert {found[syntax].reason for syntax in NO_DECODER} == {"UNSUPPORTED_TRANSFER_SYNTAX"}


def screened(folder, weights, drenet, run, names):
    """{name of a study: its row} after screening on two ranks; `names` gives the study UIDs' names."""
    done = drenet("screen", folder, "--weights", weights, "--out", run, ranks=2)
    assert done.returncode == 0, done.stdout
    with (run / "private" / "manifest.jsonl").open() as file:
        uids = {entry["study_key"]: entry["study_uid"] for entry in map(json.loads, list(file)[1:])}
    with (run / "studies.csv").open() as file:
        return {names[uids[row["study_key"]]]: row for row in csv.DictReader(file)}


@pytest.mark.real_data
@pytest.mark.long
def test_a_tree_of_the_real_slice_goes_through_on_two_ranks_to_the_one_right_verdict(tree, weights, drenet, tmp_path):
    """The slice shows shoulders: only decoded pixels can say that there is no lung in it."""
    rows = screened(tree[0], weights, drenet, tmp_path / "run", tree[1])
    assert {rows[syntax]["reason"] for syntax in (*LOSSLESS, *LOSSY, *NOT_HU)} == {"NO_LUNG_FOUND"}
    assert {rows[syntax]["reason"] for syntax in NO_DECODER} == {"UNSUPPORTED_TRANSFER_SYNTAX"}


@pytest.mark.long
def test_a_chest_in_every_lossless_syntax_is_scored_alike_on_two_ranks(weights, drenet, tmp_path):
    phantom, names = chest(1, "covid", matrix=128, slices=26), {}
    for syntax in LOSSLESS:
        data_sets, study = series(phantom, "1"), generate_uid()
        for data in data_sets:
            data.StudyInstanceUID = study
            compress(data, BASE + syntax)
        write(tmp_path / "a" / f"syntax{syntax}", data_sets)
        names[study] = syntax
    rows = screened(tmp_path / "a", weights, drenet, tmp_path / "run", names)
    assert {row["status"] for row in rows.values()} == {"OK"}
    assert len(rows) == len(LOSSLESS)
    assert len({row["probability"] for row in rows.values()}) == 1


@pytest.mark.real_data
def test_the_broken_real_files_get_their_reasons(real_data, tmp_path):
    for name in ("no-pixel-data.dcm", "no-pixel-spacing.dcm", "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes((real_data / "transfer-syntaxes" / name).read_bytes())
        manifest, studies = indexed(tmp_path / name)
        assert not left_out(manifest)
        assert [study.status for study in studies] == ["EXCLUDED"]


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "n_slices"), [("P001", 148), ("cap001", 168), ("normal001", 154)])
def test_real_series_stand_in_anatomical_order_checked_against_their_positions(name, n_slices, real_data, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).symlink_to(real_data / "covid-ct-md" / name)
    _, (study,) = indexed(tmp_path / "a")
    (series,) = study.candidates
    assert len(series.slices) == n_slices
    positions = []
    for source in series.slices:
        data = dcmread(tmp_path / "a" / source.path, stop_before_pixels=True)
        assert data.SeriesInstanceUID == series.series_uid
        positions.append(float(data.ImagePositionPatient[2]))
    assert positions == sorted(positions)
    assert [source.z_mm for source in series.slices] == pytest.approx(positions)
    assert len(set(positions)) == n_slices
