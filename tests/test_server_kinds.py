"""Every kind of study by every door: the numbers of the bulk run, to the last digit."""

import io
import re
import socket
import sqlite3
import time

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID, generate_uid

import pipeline
from pipeline.phantom.chest import chest
from pipeline.phantom.images import compress, series, to_bytes
from pipeline.run.resume import results_of
from tests.ct_series import LOSSY
from tests.serving import HANG_S, serving
from tests.test_archive_nifti import bytes_of, image_of, put
from tests.test_archive_picture_greys import write_patient
from tests.test_archive_syntaxes import BASE, ENHANCED, LEGACY, LOSSLESS, multi_frame
from tests.test_screening_single import numbers
from tests.test_server import key, related, zipped  # noqa: F401  a fixture

pytestmark = pytest.mark.long
PHANTOM = (81_000, "covid")


def as_instances(kind, number):
    """(name of a file, its bytes) of a study of this kind; each has another slice count, by which answers are told apart."""
    slices = series(chest(*PHANTOM, matrix=128, slices=26 + number), "1")
    study = generate_uid()
    if kind in (ENHANCED, LEGACY):
        slices = [multi_frame(kind, slices=slices)]
    for data in slices:
        data.StudyInstanceUID = study
        if kind in LOSSY:
            lossy(data, kind)
        elif kind in LOSSLESS:
            compress(data, BASE + kind)
    return [(f"{place}.dcm", to_bytes(data).getvalue()) for place, data in enumerate(slices)]


def lossy(data, kind):
    """Compress the slice, not to be had back bit by bit."""
    words = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)
    data.PixelData = encapsulate([LOSSY[kind][0](words, data.BitsStored)])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = UID(BASE + kind)


@pytest.fixture(scope="module")
def studies():
    """{kind: its files}."""
    kinds = (*LOSSLESS, *LOSSY, ENHANCED, LEGACY)
    return {kind: as_instances(kind, number) for number, kind in enumerate(kinds)}


@pytest.fixture(scope="module")
def bulk(studies, weights, key, tmp_path_factory):  # noqa: F811
    """{study key: result} of one run over them all."""
    folder = tmp_path_factory.mktemp("kinds")
    for number, files in enumerate(studies.values()):
        (folder / "archive" / str(number)).mkdir(parents=True)
        for name, data in files:
            (folder / "archive" / str(number) / name).write_bytes(data)
    pipeline.screen(folder / "archive", weights, folder / "run", key_file=key)
    results = {result.study_key: result for result in results_of(folder / "run")}
    assert len(results) == len(studies)
    assert all(result.probabilities for result in results.values())
    return results


@pytest.fixture(scope="module")
def served(weights, key, tmp_path_factory):  # noqa: F811
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spool = tmp_path_factory.mktemp("served") / "spool"
    with serving(weights, spool, "--settle-s", 3, "--dimse", port, key=key) as one:
        one.dimse_port, one.spool = port, spool
        yield one


def check(results, bulk):
    """Keys and numbers are those of the bulk run."""
    assert {one.study_key: numbers(one) for one in results} == {name: numbers(one) for name, one in bulk.items()}


def test_every_dicom_kind_in_one_upload(served, studies, bulk):
    files = [(f"{number}/{name}", data) for number, files in enumerate(studies.values()) for name, data in files]
    check(served.results(served.accepted([("all.zip", zipped(files))])), bulk)


def test_every_dicom_kind_by_stow(served, studies, bulk):
    ids = set()
    for files in studies.values():
        headers, body = related([("application/dicom", data) for _, data in files])
        status, said, _ = served.ask("/dicom-web/studies", body, "POST", headers)
        assert status == 200
        ids |= set(re.findall(r"/v1/studies/([\w-]+)", said["Link"]))
    check([result for id_ in ids for result in served.results(id_)], bulk)


def test_every_dicom_kind_by_c_store(served, studies, bulk):
    before = ids_of(served)
    for files in studies.values():
        store(served.dimse_port, [dcmread(io.BytesIO(data)) for _, data in files])
    end = time.monotonic() + HANG_S
    while len(ids := ids_of(served) - before) < len(studies):
        assert time.monotonic() < end
        time.sleep(0.2)
    check([result for id_ in ids for result in served.results(id_)], bulk)


def store(port, instances):
    from pynetdicom import AE

    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(instances[0].SOPClassUID, instances[0].file_meta.TransferSyntaxUID)
    line = entity.associate("127.0.0.1", port)
    assert line.is_established
    assert [line.send_c_store(one).Status for one in instances] == [0] * len(instances)
    line.release()


def ids_of(served):
    with sqlite3.connect(served.spool / "queue.sqlite") as base:
        return {id_ for (id_,) in base.execute("SELECT id FROM studies")}


@pytest.mark.parametrize("kind", ["nifti", "pictures"])
def test_volumes_and_pictures_by_upload(kind, served, weights, key, tmp_path):  # noqa: F811
    phantom = chest(*PHANTOM, matrix=128, slices=26)
    if kind == "nifti":
        put(tmp_path / "archive" / "ct.nii.gz", bytes_of(image_of(phantom)))
    else:
        write_patient(tmp_path / "archive", phantom, [6, 9, 12, 15, 18], (-1450, 50))
    pipeline.screen(tmp_path / "archive", weights, tmp_path / "run", key_file=key)
    (expected,) = results_of(tmp_path / "run")
    assert expected.probabilities
    files = [(path.name, path.read_bytes()) for path in sorted((tmp_path / "archive").rglob("*")) if path.is_file()]
    assert [numbers(one) for one in served.results(served.accepted(files))] == [numbers(expected)]
