"""NIfTI volumes: the same chest as DICOM gives the same slices and pixels, however its voxels are ordered; or the reason."""

import csv
import gzip
import io
import tarfile
import zipfile
from dataclasses import replace

import nibabel
import numpy as np
import pytest

import pipeline
from pipeline.archive import Decoder, build_volume_study, folder_patients, list_folder, read_volume, scan_file
from pipeline.config import Config, FillConfig, SeriesConfig
from pipeline.errors import ConfigurationError, Reason, StudyError
from pipeline.phantom.chest import chest
from pipeline.phantom.images import series
from pipeline.pseudonym import make_key
from pipeline.run.manifest import read_manifest
from pipeline.study.lungs import lung_masks
from pipeline.study.slices import prepare
from tests.fabricate import indexed, left_out, write

ORIENTATIONS = ["RAS", "LPS", "LAS", "RPI", "ASR", "SPL", "ILP", "PIR"]
PLAIN = Config()
BLACK = Config(fill=FillConfig(kind="black"))


@pytest.fixture(scope="module")
def phantom():
    return replace(chest(81_000, "covid", matrix=128, slices=26), vendor=3)  # which marks and cuts off nothing


def image_of(phantom, orientation="LPS", *, kind=np.int16, slope=None, intercept=0.0, origin=-170.0):
    """The phantom as a NIfTI image whose axes run to where `orientation` says."""
    row_mm, column_mm = phantom.spacing_mm
    step_mm = float(np.median(np.diff(phantom.z_mm)))
    affine = np.diag([-column_mm, -row_mm, step_mm, 1.0])
    affine[:3, 3] = -origin, -origin, phantom.z_mm[0]
    stored = phantom.hu.transpose(2, 1, 0).astype(np.float64)
    stored = stored if slope is None else (stored - intercept) / slope
    data = np.rint(stored).astype(kind) if np.issubdtype(kind, np.integer) else stored.astype(kind)
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_slope_inter(slope, intercept if slope else None)
    image.header.set_xyzt_units("mm")
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(orientation))
    )
    turned = image.as_reoriented(change)
    turned.header.set_slope_inter(slope, intercept if slope else None)
    return turned


def bytes_of(image):
    return image.to_bytes()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 1) if path.name.endswith(".gz") else data)


def read(archive, config=PLAIN):
    """The only study of a folder, its candidate's volume as screening reads it."""
    _, (study,) = indexed(archive, config)
    with Decoder() as decoder:
        return study, read_volume(archive, study.candidates[0], range(len(study.candidates[0].slices)), decoder)


@pytest.fixture(scope="module")
def as_dicom(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "a"
    write(folder / "ct", series(phantom, "nifti"))
    return read(folder)[1]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_chest_in_any_order_of_voxels_is_the_chest_written_as_dicom(phantom, as_dicom, tmp_path, orientation):
    put(tmp_path / "a" / "P" / "ct.nii.gz", bytes_of(image_of(phantom, orientation)))
    study, volume = read(tmp_path / "a")
    assert (study.status, study.candidates[0].kind, study.patient_id, study.n_files) == ("READY", "nifti", "P", 1)
    assert np.abs(volume.z_mm - as_dicom.z_mm).max() < 0.01
    assert volume.slice_index.tolist() == as_dicom.slice_index.tolist()
    assert volume.spacing_mm == pytest.approx(as_dicom.spacing_mm, abs=1e-4)
    assert np.abs(volume.hu.astype(int) - as_dicom.hu).max() <= 1
    prepared, wanted = (prepare(one, lung_masks(one.hu, one.z_mm, one.spacing_mm), 7, BLACK) for one in (volume, as_dicom))
    assert prepared.slice_index.tolist() == wanted.slice_index.tolist()
    assert np.abs(prepared.images.astype(int) - wanted.images).mean() < 0.05


@pytest.mark.parametrize(
    "stored",
    [
        {"kind": np.float32},
        {"kind": np.float64},
        {"kind": np.int32},
        {"kind": np.uint16, "slope": 1.0, "intercept": -1024.0},
        {"kind": np.int16, "slope": 0.5, "intercept": 100.0},
    ],
)
def test_stored_numbers_of_every_kind_are_scaled_to_hu(phantom, tmp_path, stored):
    put(tmp_path / "a" / "ct.nii", bytes_of(image_of(phantom, **stored)))
    study, volume = read(tmp_path / "a")
    assert np.abs(volume.hu.astype(int) - phantom.hu[volume.slice_index]).max() <= 1
    assert study.patient_id == "ct.nii"


def test_the_second_version_and_the_other_order_of_bytes_are_read(phantom, tmp_path):
    image = image_of(phantom)
    second = nibabel.Nifti2Image(np.asarray(image.dataobj), image.affine)
    put(tmp_path / "a" / "ct.nii.gz", second.to_bytes())
    swapped = nibabel.Nifti1Image(np.asarray(image.dataobj).astype(">i2"), image.affine, image.header.as_byteswapped(">"))
    put(tmp_path / "b" / "ct.nii", swapped.to_bytes())
    for name in "ab":
        _, volume = read(tmp_path / name)
        np.testing.assert_array_equal(volume.hu, phantom.hu[volume.slice_index])


@pytest.mark.parametrize("orientation", ["LPS", "SPL"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["nii", "nii.gz"])
def test_a_volume_in_a_zip_or_tar_is_a_study_gzipped_or_not(pack, orientation, phantom, tmp_path):
    data = pack(bytes_of(image_of(phantom, orientation)))
    (tmp_path / "a").mkdir()
    with zipfile.ZipFile(tmp_path / "a" / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("P1/ct.nii", data)
    for name, mode in (("y.tar", "w"), ("z.tgz", "w:gz")):
        with tarfile.open(tmp_path / "a" / name, mode) as file:
            for folder in ("P2", "P3"):
                info = tarfile.TarInfo(f"{folder}/ct.nii.gz")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    _, studies = indexed(tmp_path / "a", Config())
    homes = ["x.zip!/P1", "y.tar!/P2", "y.tar!/P3", "z.tgz!/P2", "z.tgz!/P3"]
    assert sorted(study.patient_id for study in studies) == homes
    with Decoder() as decoder:
        for study in studies:
            volume = read_volume(tmp_path / "a", study.candidates[0], range(15), decoder)
            np.testing.assert_array_equal(volume.hu, phantom.hu[volume.slice_index])


def test_a_header_with_extensions_and_a_qform_of_no_sign_are_read(phantom, tmp_path):
    extended, placed = image_of(phantom), image_of(phantom)
    extended.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"anything" * 100))
    placed.set_qform(placed.affine, 1)
    placed.set_sform(None, 0)
    put(tmp_path / "a" / "ct.nii", extended.to_bytes())
    put(tmp_path / "b" / "ct.nii", changed(placed, pixdim=[0.0, *placed.header["pixdim"][1:]]))
    for name in "ab":
        _, volume = read(tmp_path / name)
        np.testing.assert_array_equal(volume.hu, phantom.hu[volume.slice_index])


def changed(image, **values):
    """The bytes of an image whose header says something else."""
    data = bytearray(image.to_bytes())
    header = image.header.copy()
    for name, value in {"vox_offset": 352.0, **values}.items():
        header[name] = value
    data[: len(header.binaryblock)] = header.binaryblock
    return bytes(data)


def reason_of(archive, data):
    put(archive / "P" / "ct.nii", data)
    manifest, studies = indexed(archive, Config())
    return (studies[0].status, studies[0].reason) if studies else left_out(manifest)


def test_what_cannot_be_used_is_left_out_with_its_reason(phantom, tmp_path):
    image = image_of(phantom)
    whole = image.to_bytes()
    tilted = image.affine @ np.array([[1, 0, 0, 0], [0, 0.5, -0.8, 0], [0, 0.8, 0.5, 0], [0, 0, 0, 1.0]])
    cases = {
        "short": (whole[: len(whole) // 2], ("FAILED", "TRUNCATED_PIXEL_DATA")),
        "lying": (changed(image, dim=[3, 4000, 4000, 4000, 1, 1, 1, 1]), ("FAILED", "TRUNCATED_PIXEL_DATA")),
        "huge": (changed(image, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), ("FAILED", "DECOMPRESSION_BOMB")),
        "time": (changed(image, dim=[4, 128, 128, 13, 2, 1, 1, 1]), ("EXCLUDED", "PIXEL_FORMAT")),
        "placeless": (changed(image, sform_code=0, qform_code=0), ("EXCLUDED", "MISSING_GEOMETRY")),
        "offset": (changed(image, vox_offset=0.0), ("EXCLUDED", "HEADER_CORRUPT")),
        "thin": (changed(image, dim=[3, 128, 128, 5, 1, 1, 1, 1]), ("EXCLUDED", "TOO_FEW_SLICES")),
        "colour": (changed(image, datatype=128, bitpix=24), ("EXCLUDED", "PIXEL_FORMAT")),
        "wide": (changed(image, srow_x=[900.0, 0, 0, 0]), ("EXCLUDED", "INVALID_VALUE")),
        "nan": (changed(image, srow_x=[np.nan, 0, 0, 0]), ("EXCLUDED", "INVALID_VALUE")),
        "oblique": (nibabel.Nifti1Image(np.asarray(image.dataobj), tilted).to_bytes(), ("EXCLUDED", "NOT_AXIAL")),
        "broken": (whole[:344] + b"n+9\0" + whole[348:], {"HEADER_CORRUPT": 1}),
        "pair": (whole[:344] + b"ni1\0" + whole[348:], {"HEADER_CORRUPT": 1}),
        "analyze": (whole[:344] + bytes(4), {"HEADER_CORRUPT": 1}),
    }
    found = {name: reason_of(tmp_path / name, data) for name, (data, _) in cases.items()}
    assert found == {name: expected for name, (_, expected) in cases.items()}


def test_a_gzip_of_a_header_without_its_magic_is_said_to_be_damaged(phantom, tmp_path):
    put(tmp_path / "a" / "ct.nii.gz", b"\x5c\1\0\0" + bytes(5000))
    manifest, studies = indexed(tmp_path / "a", Config())
    assert (studies, left_out(manifest)) == ([], {"UNPACKED": 1, "HEADER_CORRUPT": 1})


def test_a_gzip_that_grows_beyond_measure_is_a_bomb(phantom, tmp_path):
    data = changed(image_of(phantom), dim=[3, 2000, 2000, 9, 1, 1, 1, 1])[:352] + bytes(72_000_000)
    put(tmp_path / "a" / "ct.nii.gz", data)
    manifest, studies = indexed(tmp_path / "a", Config())
    assert (studies, left_out(manifest)["DECOMPRESSION_BOMB"]) == ([], 1)


def test_damaged_headers_end_in_a_reason_or_in_pixels_never_in_an_error(phantom, tmp_path):
    draw, whole = np.random.default_rng(4), image_of(phantom).to_bytes()
    reasons = set()
    (tmp_path / "a").mkdir()
    with Decoder() as decoder:
        for number in range(250):
            data = bytearray(whole)
            for place in draw.integers(0, 352, draw.integers(1, 5)):
                data[place] = draw.integers(256)
            put(tmp_path / "a" / "x.nii", bytes(data[: draw.integers(4, len(data))] if number % 8 == 0 else data))
            _, (file,), _ = list_folder(tmp_path / "a", "")
            for record in scan_file(tmp_path / "a", file).records:
                reasons |= {record.reason} | verdict_of(record, tmp_path / "a", decoder)
    assert reasons <= {"", *Reason}
    assert len(reasons) > 6


def verdict_of(record, archive, decoder):
    """The reason for which a volume has no candidate, or cannot be read."""
    if record.volume is None:
        return set()
    study = build_volume_study("x", "x", record, SeriesConfig(), bytes(32))
    if not study.candidates:
        return {study.reason}
    try:
        read_volume(archive, study.candidates[0], [0, 12], decoder)
    except StudyError as error:
        return {error.reason}
    return set()


@pytest.fixture(scope="module")
def heap(phantom, tmp_path_factory):
    """Two chests, in two orientations the second; a label map and numbers that are no HU beside them."""
    folder = tmp_path_factory.mktemp("heap") / "a"
    put(folder / "CANARY1" / "ct.nii.gz", bytes_of(image_of(phantom)))
    put(folder / "CANARY2" / "ct.nii.gz", bytes_of(image_of(phantom, "RAS")))
    put(folder / "CANARY2" / "again.nii", bytes_of(image_of(phantom, "PIR")))
    label = nibabel.Nifti1Image(phantom.lung.transpose(2, 1, 0).astype(np.uint8), image_of(phantom).affine)
    put(folder / "CANARY2" / "lung.nii.gz", label.to_bytes())
    positive = nibabel.Nifti1Image((phantom.hu.transpose(2, 1, 0) + 1024).astype(np.uint16), image_of(phantom).affine)
    put(folder / "CANARY3" / "shifted.nii.gz", positive.to_bytes())
    make_key(folder.with_name("key"))
    return folder


def test_volumes_are_screened_patient_by_patient_and_what_is_no_hu_is_refused(heap, weights, tmp_path):
    done = pipeline.screen(heap, weights, tmp_path / "run", key_file=heap.with_name("key"))
    assert done.by_status == {"OK": 3, "FAILED": 2}
    assert done.by_reason == {"PIXELS_IMPLAUSIBLE": 2}
    studies = pipeline.open_run(tmp_path / "run").studies
    scored = studies[studies["status"] == "OK"]
    assert scored["probability"].nunique() == 1  # the same chest, however its voxels are ordered
    assert scored["patient_key"].nunique() == 2
    outside = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and "private" not in path.parts]
    assert not [path.name for path in outside if b"CANARY" in path.read_bytes()]


def test_the_same_chest_as_volume_and_as_dicom_has_one_score_where_no_fill_is_drawn(phantom, weights, tmp_path):
    """The fill is drawn by the series' UID for DICOM and by the grid for a volume: nothing else differs."""
    write(tmp_path / "dicom" / "ct", series(phantom, "nifti"))
    put(tmp_path / "volumes" / "ct.nii.gz", bytes_of(image_of(phantom, "SPR")))
    make_key(tmp_path / "key")
    scores = []
    for name in ("dicom", "volumes"):
        done = pipeline.screen(tmp_path / name, weights, tmp_path / f"{name}-run", config=BLACK, key_file=tmp_path / "key")
        assert done.by_status == {"OK": 1}
        scores += [*pipeline.open_run(tmp_path / f"{name}-run").studies["probability"]]
    assert scores[0] == scores[1]


def write_list(path, rows, head=("file", "patient", "mask")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def test_a_list_says_whose_volumes_are(heap, tmp_path):
    listed = heap / "list.csv"
    write_list(listed, [("CANARY1/ct.nii.gz", "A", ""), ("CANARY2/ct.nii.gz", "A", ""), ("CANARY2/again.nii", "B", "")])
    _, studies = indexed_list(listed, tmp_path)
    assert sorted((study.patient_id, study.status) for study in studies) == [("A", "READY"), ("A", "READY"), ("B", "READY")]
    write_list(listed, [("CANARY1/ct.nii.gz", "A", "CANARY2/lung.nii.gz")])
    with pytest.raises(ConfigurationError, match="line 2 gives a volume a mask"):
        indexed_list(listed, tmp_path)
    listed.unlink()


def indexed_list(path, tmp_path):
    from pipeline.mpi.world import Alone
    from pipeline.run.index import Private, index
    from tests.fabricate import KEY

    (tmp_path / "private").mkdir(exist_ok=True)
    index(Alone(), path, Private(tmp_path / "private", KEY), Config())
    manifest = read_manifest(tmp_path / "private")
    return manifest, [manifest.study(number) for number in range(len(manifest.entries))]


def test_a_volume_belongs_to_its_folder_unless_that_is_the_top_or_a_heap():
    heap = [f"heap/{number}.nii" for number in range(9)]
    found = folder_patients(["top.nii", "P1/a.nii.gz", "P1/b.nii.gz", *heap])
    assert (found["top.nii"], found["P1/a.nii.gz"], found["P1/b.nii.gz"]) == ("top.nii", "P1", "P1")
    assert [found[name] for name in heap] == heap
