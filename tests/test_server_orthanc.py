"""A real PACS: Orthanc pushes a study by STOW-RS and by C-STORE, and finds SR and SEG of the right instances beside it."""

import io
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serving import serving

pytestmark = pytest.mark.slow
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
WAIT_S = 300


def free_ports(count):
    """Ports that nobody listens on."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


class Orthanc:
    """One that runs on this machine."""

    def __init__(self, address):
        self.address = address

    def ask(self, path, body=None):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.address + path, data), timeout=WAIT_S) as answer:
            return answer.read()

    def get(self, path):
        return json.loads(self.ask(path))

    def of_kind(self, kind):
        """The instances of one modality, as files."""
        found = [one["ID"] for one in self.get("/series?expand") if one["MainDicomTags"]["Modality"] == kind]
        return [self.ask(f"/instances/{name}/file") for series in found for name in self.get(f"/series/{series}")["Instances"]]


@contextmanager
def orthanc(folder, ports, to_http, to_dimse):
    if not shutil.which("Orthanc") or not PLUGIN.exists():
        pytest.skip("no Orthanc here: apt-get install orthanc orthanc-dicomweb brings it")
    http_port, dicom_port = ports
    settings = {
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "Plugins": [str(PLUGIN)],
        "HttpPort": http_port, "DicomPort": dicom_port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "DicomWeb": {"Enable": True, "Servers": {"drenet": [f"http://127.0.0.1:{to_http}/dicom-web/"]}},
        "DicomModalities": {"drenet": ["DRENET", "127.0.0.1", to_dimse]},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("w") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        until(lambda: _answers(http_port))
        yield Orthanc(f"http://127.0.0.1:{http_port}")
    finally:
        process.terminate()
        process.wait(timeout=60)


def _answers(port):
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


def until(holds):
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.3)


def referred(data):
    """The UIDs of the images that an SR or SEG refers to."""
    from pydicom import dcmread

    return {str(one.value) for one in dcmread(io.BytesIO(data)).iterall() if one.tag == 0x00081155}


def test_orthanc_gets_sr_and_seg_of_what_it_pushes(weights, plain, tmp_path):
    from pydicom import dcmread

    files = sorted(next(path for path in sorted(plain.archive.rglob("*")) if path.is_file()).parent.iterdir())
    uids = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files}
    http_port, dicom_port, own_http, own_dimse = free_ports(4)
    back = ("--return-to", f"http://127.0.0.1:{http_port}/dicom-web/studies")
    more = ("--port", own_http, "--dimse", own_dimse, "--settle-s", 3, *back)
    with (
        orthanc(tmp_path, (http_port, dicom_port), own_http, own_dimse) as pacs,
        serving(weights, tmp_path / "spool", *more, key=plain.run.with_name("key")) as served,
    ):
        for path in files:
            pacs.ask("/instances", path.read_bytes())
        (study,) = pacs.get("/studies")
        pushes = (
            ("/dicom-web/servers/drenet/stow", {"Resources": [study]}),
            ("/modalities/drenet/store", {"Resources": [study]}),
        )
        for number, (path, body) in enumerate(pushes, 1):
            for kind in ("SR", "SEG"):  # none of an earlier push, which would be pushed too
                for series in [one["ID"] for one in pacs.get("/series?expand") if one["MainDicomTags"]["Modality"] == kind]:
                    urllib.request.urlopen(urllib.request.Request(f"{pacs.address}/series/{series}", method="DELETE")).close()
            pacs.ask(path, body)
            until(lambda: pacs.of_kind("SR") and pacs.of_kind("SEG"))
            for data in (*pacs.of_kind("SR"), *pacs.of_kind("SEG")):
                assert referred(data) & uids
            assert len(pacs.get("/studies")) == 1
            until(lambda number=number: served.logs.read_text().count("answered") == number)
