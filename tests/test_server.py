"""The server: one study in, the batch's numbers out; what is hostile, broken or killed ends as an answer."""

import http.server
import io
import json
import os
import random
import re
import signal
import socket
import sqlite3
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import msgspec
import pytest

from pipeline.errors import ConfigurationError, Reason
from pipeline.phantom.chest import chest
from pipeline.run.resume import results_of
from pipeline.server.guard import policy_of
from pipeline.server.problems import FAILURES, PROBLEMS
from pipeline.server.queue import Queue
from pipeline.server.reasons import reasons
from pipeline.server.settings import Settings, check, read_token
from pipeline.server.upload import create, harmless
from tests.serving import multipart, serving
from tests.test_archive_nifti import bytes_of, image_of
from tests.test_screening_single import numbers

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def key(plain):
    return plain.run.with_name("key")


@pytest.fixture(scope="module")
def server(weights, key, tmp_path_factory):
    with serving(weights, tmp_path_factory.mktemp("server") / "spool", "--max-mb", "8", key=key) as served:
        yield served


@pytest.fixture(scope="module")
def study(plain):
    """(name, bytes) of the files of one study of the plain archive."""
    folder = next(path for path in sorted(plain.archive.rglob("*")) if path.is_file()).parent
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def zipped(files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in files:
            file.writestr(name, content)
    return data.getvalue()


def batch(plain, result):
    return next(one for one in results_of(plain.run) if one.study_key == result.study_key)


def test_a_zip_is_answered_with_the_numbers_of_the_bulk_run_and_its_files(server, study, plain):
    id_ = server.accepted([("study.zip", zipped(study))])
    (result,) = server.results(id_)
    assert result.probabilities
    assert numbers(result) == numbers(batch(plain, result))
    said = server.state(id_)
    for file in said["files"]:
        status, _, data = server.ask(f"/v1/studies/{id_}/files/{file['name']}")
        assert (status, len(data)) == (200, file["bytes"])
    ends = {name["name"].rpartition("/")[2] for name in said["files"]}
    assert {"studies.csv", "exclusions.csv", f"{result.study_key}.png", "report.dcm", "lungs.dcm"} <= ends
    panel, headers, _ = server.ask(f"/v1/studies/{id_}/panel")
    assert panel == 200
    assert "'unsafe-inline'" not in headers["Content-Security-Policy"].partition("style-src-attr")[0]
    address = said["panels"][result.study_key]
    assert result.study_key in server.ask(address)[2].decode()
    for name in ("..%2fstudies.csv", "../studies.csv", "nothing.html"):
        assert server.ask(address.replace(f"{result.study_key}.html", name))[0] == 404


def test_loose_files_whose_names_repeat_or_lead_out_give_the_same_numbers(server, study, plain):
    names = ["IM1", "../../IM1", "/etc/IM1", "..\\IM1", "CANARY/IM1"]
    files = [(names[place % len(names)], data) for place, (_, data) in enumerate(study)]
    (result,) = server.results(server.accepted(files))
    assert numbers(result) == numbers(batch(plain, result))


def test_a_volume_is_answered_and_events_tell_its_stages(server):
    phantom = chest(81_000, "covid", matrix=128, slices=26)
    id_ = server.accepted([("CANARY^NAME.nii", bytes_of(image_of(phantom)))])
    status, headers, told = server.ask(f"/v1/studies/{id_}/events")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/event-stream")
    news = [json.loads(line) for line in re.findall(r"^data: (.*)$", told.decode(), re.MULTILINE)]
    assert news[-1]["state"] == "done"
    assert {"index", "write"} & {one["stage"] for one in news}
    assert server.results(id_)[0].probabilities


def test_what_cannot_be_screened_is_an_answer_with_a_code_and_a_cure(server, study):
    broken = zipped(study)[:-100]
    for data, code in ((broken[:300], "ARCHIVE_CORRUPT"), (b"no image", "NOT_DICOM"), (b"", "EMPTY_FILE")):
        said = server.answer(server.accepted([("x.zip", data)]))
        assert (said["state"], said["code"]) == ("failed", "NO_CT")
        assert code in {one["code"] for one in said["left_out"]}
        assert said["explained"][code]["cure"]
        assert said["cure"]


def hostile():
    """(name, bytes, the code it ends as)."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(300 << 20))
    inner = zipped([("a", b"a")])
    return [
        ("link.tar", tar.getvalue(), "ZIP_SLIP"),
        ("slip.zip", zipped([("../../../tmp/CANARY", b"x" * 999)]), "ZIP_SLIP"),
        ("bomb.zip", bomb.getvalue(), "DECOMPRESSION_BOMB"),
        ("nested.zip", zipped([("inner.zip", inner)]), "ARCHIVE_NESTED"),
        ("half.zip", zipped([("a", b"b" * 9999)])[:500], "ARCHIVE_CORRUPT"),
        ("deep.dcm", bytes(128) + b"DICM" + b"\xff" * 500, "HEADER_CORRUPT"),
    ]


def test_hostile_containers_end_in_their_reason_codes_beside_a_sound_study(server, study, plain):
    cases = hostile()
    id_ = server.accepted([("study.zip", zipped(study)), *((name, data) for name, data, _ in cases)])
    (result,) = server.results(id_)
    assert numbers(result) == numbers(batch(plain, result))
    left_out = {one["code"] for one in server.state(id_)["left_out"]}
    assert {code for _, _, code in cases} <= left_out


@pytest.mark.long
def test_damaged_uploads_never_end_in_a_server_error(server, study):
    draw, sound = random.Random(1), zipped(study[:6])
    kind, body = multipart([("study.zip", sound)])
    for number in range(60):
        data = bytearray(body)
        for _ in range(draw.randint(1, 40)):
            data[draw.choice([draw.randrange(300), draw.randrange(len(data))])] = draw.randrange(256)
        cut = bytes(data[: draw.randrange(len(data))]) if number % 3 == 0 else bytes(data)
        status, _, said = server.ask("/v1/studies", cut, headers={"Content-Type": kind})
        assert status in (202, 400), said
        if status == 202 and number % 4:
            server.ask(f"/v1/studies/{json.loads(said)['id']}", method="DELETE")
        elif status == 202:
            assert server.answer(json.loads(said)["id"])["state"] in ("done", "failed")


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({"Content-Type": "application/json"}, b"{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"Content-Type": "multipart/form-data"}, b"", 400, "NOT_MULTIPART"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"", 400, "NOT_MULTIPART"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--\r\n", 400, "EMPTY_UPLOAD"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"nonsense\x00" * 9, 400, "NOT_MULTIPART"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"a" * (9 << 20), 413, "UPLOAD_TOO_LARGE"),
        ({"Content-Type": "multipart/form-data; boundary=x", "Origin": "http://elsewhere.test"}, b"", 403, "WRONG_ORIGIN"),
        ({"Host": "elsewhere.test"}, b"", 403, "WRONG_HOST"),
    ],
)
def test_a_wrong_upload_is_refused_with_its_code(server, headers, body, status, code):
    try:
        got, said_headers, said = server.ask("/v1/studies", body, "POST", headers)
    except OSError:  # the server closed the line before all was sent
        assert status == 413
        return
    assert (got, json.loads(said)["code"]) == (status, code)
    assert said_headers["Content-Type"] == "application/problem+json"
    assert json.loads(said)["cure"]


def test_a_huge_declared_length_is_refused_before_it_is_sent(server):
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        head = f"POST /v1/studies HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        line.sendall(f"{head}Content-Length: 999999999999\r\n\r\n".encode())
        assert b" 413 " in line.recv(100)


@pytest.mark.long
def test_a_study_can_be_cancelled_while_it_is_screened_and_the_server_goes_on(server, study):
    first, second = server.accepted([("a.zip", zipped(study))]), server.accepted([("b.zip", zipped(study))])
    assert server.ask(f"/v1/studies/{first}", method="DELETE")[0] == 204
    assert server.state(first)["state"] == "cancelled"
    assert server.answer(second)["state"] == "done"
    assert server.ask(f"/v1/studies/{second}", method="DELETE")[0] == 204
    assert server.ask(f"/v1/studies/{second}")[0] == 404


@pytest.mark.long
def test_a_worker_that_is_killed_is_replaced_and_the_study_is_answered(server, study):
    id_ = server.accepted([("a.zip", zipped(study))])
    while server.state(id_)["state"] == "queued":
        time.sleep(0.05)
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
    assert server.answer(id_)["state"] == "done"


def test_health_metrics_and_the_document_of_the_api_are_served(server):
    assert server.ask("/healthz")[0] == 200
    assert re.search(r"^drenet_responses_total\{status=\"200\"\} \d+$", server.ask("/metrics")[2].decode(), re.MULTILINE)
    document = json.loads(server.ask("/openapi.json")[2])
    text = json.dumps(document)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in document["components"]["schemas"]
    for path, method in (
        ("/nowhere", "GET"),
        ("/v1/studies/x", "GET"),
        ("/v1/studies", "DELETE"),
        ("/v1/studies/x/files/y", "GET"),
    ):
        status, headers, said = server.ask(path, method=method)
        assert (status == 405) == (headers["Allow"] is not None)
        assert (status, headers["Content-Type"]) in {(404, "application/problem+json"), (405, "application/problem+json")}
        assert json.loads(said)["code"] in PROBLEMS


def test_every_answer_has_a_strict_policy_and_no_cookie(server):
    for path in ("/", "/assets/page.js", "/assets/page.css", "/openapi.json", "/v1/studies/none"):
        _, headers, _ = server.ask(path)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Set-Cookie"] is None


def test_nothing_of_the_patient_is_written_logged_or_served(server, study, plain):
    """Runs last: the spool has seen all the others. Objects of the DICOM standard carry identity, as their purpose is."""
    id_ = server.accepted([("CANARY/CANARY.zip", zipped([(f"CANARY/{name}", data) for name, data in study]))])
    said = server.answer(id_)
    panels = [server.ask(address)[2] for address in said["panels"].values()]
    served = [json.dumps(said).encode(), server.ask("/metrics")[2], *panels, server.logs.read_bytes()]
    spool = Path(next(iter(server.logs.parent.glob("spool"))))
    assert not list(spool.glob("studies/*/upload"))
    assert oct(spool.stat().st_mode)[-3:] == "700"
    served += [path.read_bytes() for path in spool.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    paths = [str(path.relative_to(spool)).encode() for path in spool.rglob("*")]
    assert any(b"CANARY" in data for _, data in study)
    assert not [data[:80] for data in (*served, *paths) if b"CANARY" in data]
    assert id_ not in server.logs.read_text()


@pytest.mark.long
def test_a_killed_server_goes_on_where_it_stopped(weights, key, study, tmp_path):
    with serving(weights, tmp_path / "spool", key=key) as first:
        ids = [first.accepted([("a.zip", zipped(study))]) for _ in range(2)]
        while first.state(ids[0])["state"] == "queued":
            time.sleep(0.02)
        first.process.kill()
    with serving(weights, tmp_path / "spool", key=key) as second:
        assert [second.answer(id_)["state"] for id_ in ids] == ["done", "done"]


@pytest.mark.long
def test_a_token_is_asked_for_and_a_second_server_refused(weights, key, study, tmp_path, drenet):
    (tmp_path / "token").write_text("0123456789abcdef" * 2)
    (tmp_path / "token").chmod(0o600)
    with serving(weights, tmp_path / "spool", "--token-file", tmp_path / "token", key=key) as served:
        assert served.ask("/v1/studies/none")[0] == 401
        assert served.ask("/")[0] == 200
        served.token = "0123456789abcdef" * 2
        assert served.ask("/v1/studies/none")[0] == 404
        done = drenet("serve", "--weights", weights, "--spool", tmp_path / "spool", "--port", 0)
        assert done.returncode == 2
        assert "is held by" in done.stdout
        assert "--spool" in done.stdout


def test_what_would_leave_a_server_open_is_refused(tmp_path):
    for settings in (Settings((), tmp_path, host="0.0.0.0"), Settings((), tmp_path, host="::")):
        with pytest.raises(ConfigurationError, match="--token-file"):
            check(settings)
    for text, mode, said in (("short", 0o600, "no token"), ("0123456789abcdef", 0o644, "chmod 600")):
        (tmp_path / "token").write_text(text)
        (tmp_path / "token").chmod(mode)
        with pytest.raises(ConfigurationError, match=said):
            read_token(tmp_path / "token")


@pytest.mark.parametrize(
    "name", ["", "..", "/", "../../etc/passwd", "a/../../b", "\\\\x\\y", "\x00\n", "x" * 999, "é/ü", "a/" * 99]
)
def test_no_name_leads_out_of_its_folder(name, tmp_path):
    parts = harmless(name)
    assert parts
    assert all(part not in ("", ".", "..") and part.isascii() and part.isprintable() and "/" not in part for part in parts)
    for number in range(3):
        with create(tmp_path / "upload", name, number) as file:
            assert Path(file.name).resolve().is_relative_to(tmp_path / "upload")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


def test_the_queue_is_bounded_fair_and_deletes_what_is_old(tmp_path):
    from pipeline.server.answer import Outcome
    from pipeline.server.problems import Problem

    with Queue(tmp_path / "spool", max_queued=2, keep_s=0.0) as queue:
        for name in ("a", "b"):
            queue.home(name).mkdir(parents=True)
            queue.add(name, 1, 1)
        with pytest.raises(Problem, match="QUEUE_FULL"):
            queue.add("c", 1, 1)
        assert [queue.place(queue.find(name)) for name in ("a", "b")] == [1, 2]
        assert queue.take().id == "a"
        assert queue.lost("a").state == "queued"
        (queue.out(queue.find("a")) / "private").mkdir(parents=True)
        assert queue.take().id == "a"
        assert msgspec.json.decode(queue.lost("a").outcome, type=Outcome).code == "WORKER_LOST"
        assert not list(queue.home("a").glob("*/private"))
        assert queue.delete_old() == 1
        with pytest.raises(Problem, match="NO_SUCH_STUDY"):
            queue.find("a")
        (tmp_path / "spool" / "studies" / "half").mkdir()
    with Queue(tmp_path / "spool", max_queued=2, keep_s=0.0) as queue:
        assert not (tmp_path / "spool" / "studies" / "half").exists()
        assert queue.take().id == "b"


def test_every_reason_is_explained_as_docs_say_and_every_problem_is_documented():
    rows = re.findall(r"^\| ([A-Z_]+) \| (.*?) \| (.*?) \|$", (ROOT / "docs/reasons.md").read_text(), re.MULTILINE)
    assert {code: (said.means, said.cure) for code, said in reasons().items()} == {code: (a, b) for code, a, b in rows}
    assert {str(code) for code in Reason} <= set(reasons())
    assert (ROOT / "pipeline/server/assets/reasons.md").samefile(ROOT / "docs/reasons.md")
    told = (ROOT / "docs/server.md").read_text()
    assert [code for code in (*PROBLEMS, *FAILURES) if f"`{code}`" not in told] == []


def test_a_policy_names_the_scripts_of_its_page_and_no_others():
    policy = policy_of("<style>a</style><script>alert(1)</script>")
    assert "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='" in policy
    assert "script-src 'self' 'sha256-" in policy


def related(parts):
    """A STOW-RS body of (type, bytes) parts."""
    body = b"".join(f"--mark\r\nContent-Type: {kind}\r\n\r\n".encode() + data + b"\r\n" for kind, data in parts)
    return {"Content-Type": 'multipart/related; type="application/dicom"; boundary=mark'}, body + b"--mark--\r\n"


class Pacs(http.server.BaseHTTPRequestHandler):
    """A PACS that is down for the first request, and keeps what it gets afterwards."""

    got, n_asked = [], 0

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Pacs.n_asked += 1
        self.send_response(503 if Pacs.n_asked == 1 else 200)
        self.end_headers()
        if Pacs.n_asked > 1:
            Pacs.got.append(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def pacs():
    Pacs.got, Pacs.n_asked = [], 0
    with http.server.HTTPServer(("127.0.0.1", 0), Pacs) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/dicom-web/studies"
        listening.shutdown()


@pytest.mark.long
def test_a_pacs_that_stores_in_parts_gets_the_numbers_of_the_bulk_run_and_the_objects_back(
    weights, key, study, plain, pacs, tmp_path
):
    more = ("--settle-s", 3, "--return-to", pacs)
    with serving(weights, tmp_path / "spool", *more, key=key) as served:
        links = set()
        for some in (study[:10], study[10:], study[:3]):  # the last ones a second time
            headers, body = related([("application/dicom", data) for _, data in some])
            status, said, stored = served.ask("/dicom-web/studies", body, "POST", headers)
            assert (status, said["Content-Type"]) == (200, "application/dicom+json")
            assert len(json.loads(stored)["00081199"]["Value"]) == len(some)
            links.add(said["Link"])
        (link,) = links
        id_ = re.search(r"/v1/studies/([\w-]+)", link).group(1)
        assert served.state(id_)["state"] == "receiving"
        (result,) = served.results(id_)
        assert numbers(result) == numbers(batch(plain, result))
        while not (returned := served.state(id_)["returned"]):
            time.sleep(0.1)
        assert returned == "sent"
        (body,) = Pacs.got
        assert body.count(b"DICM") == 2
        headers, body = related([("application/dicom", data) for _, data in study[:3]])  # late ones: a study of their own
        _, said, _ = served.ask("/dicom-web/studies", body, "POST", headers)
        late = served.answer(re.search(r"/v1/studies/([\w-]+)", said["Link"]).group(1))
        assert [one["reason"] for one in late["results"]] == ["TOO_FEW_SLICES"]


def test_stow_says_of_each_instance_what_became_of_it(server, study):
    for parts, status in (
        ([("application/dicom", study[0][1]), ("application/dicom", b"nonsense")], 202),
        ([("application/dicom", b"")], 409),
        ([("text/plain", study[0][1])], 409),
        ([], 400),
    ):
        headers, body = related(parts)
        assert server.ask("/dicom-web/studies", body, "POST", headers)[0] == status


def test_a_study_that_a_pacs_sends_grows_no_larger_than_an_upload(study, tmp_path):
    from pipeline.server.crew import Board
    from pipeline.server.inbox import Inbox
    from pipeline.server.problems import Problem

    size = len(study[0][1])
    for limits, code in (({"max_files": 2}, "TOO_MANY_FILES"), ({"max_bytes": 5 * size // 2}, "UPLOAD_TOO_LARGE")):
        with Queue(tmp_path / code, max_queued=9, keep_s=0.0) as queue:
            inbox = Inbox(queue, Board(), bytes(32), Settings((), tmp_path, **limits))
            paths = [inbox.new_file() for _ in range(3)]
            for path, (_, data) in zip(paths, study, strict=False):
                path.write_bytes(data)
            taken = [inbox.take(path) for path in paths[:2]]
            with pytest.raises(Problem, match=code):
                inbox.take(paths[2])
            assert not paths[2].exists()
            assert queue.find(taken[0].id).n_files == 2


@pytest.mark.long
def test_a_dicom_node_takes_instances_from_the_callers_it_knows(weights, key, study, plain, tmp_path):
    from pydicom import dcmread
    from pynetdicom import AE
    from pynetdicom.sop_class import CTImageStorage, Verification

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = ("--settle-s", 2, "--dimse", port, "--caller", "SCANNER")
    with serving(weights, tmp_path / "spool", *more, key=key) as served:
        instances = [dcmread(io.BytesIO(data)) for _, data in study]
        for title, is_known in (("STRANGER", False), ("SCANNER", True)):
            entity = AE(ae_title=title)
            entity.add_requested_context(Verification)
            entity.add_requested_context(CTImageStorage, instances[0].file_meta.TransferSyntaxUID)
            line = entity.associate("127.0.0.1", port)
            assert line.is_established == is_known
        assert line.send_c_echo().Status == 0
        assert [line.send_c_store(one).Status for one in instances] == [0] * len(instances)
        line.release()
        end = time.monotonic() + 200
        while "answered" not in (log := served.logs.read_text()):
            assert time.monotonic() < end
            time.sleep(0.2)
        expected = next(one for one in results_of(plain.run) if one.study_key in log)
        with sqlite3.connect(tmp_path / "spool" / "queue.sqlite") as base:
            (id_,) = base.execute("SELECT id FROM studies").fetchone()
        assert [numbers(one) for one in served.results(id_)] == [numbers(expected)]
