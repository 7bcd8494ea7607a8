"""An upload that goes on where the line broke, in a browser's, a script's and a killed server's case."""

import base64
import json
import socket

import pytest

from tests.serving import serving
from tests.test_screening_single import numbers
from tests.test_server import batch, key, server, study, zipped  # noqa: F401  fixtures

KIND = "application/offset+octet-stream"


def begun(served, n_bytes, name="study.zip"):
    """The path of a new upload."""
    named = base64.b64encode(name.encode()).decode()
    headers = {"Upload-Length": n_bytes, "Upload-Metadata": f"filename {named}", "Tus-Resumable": "1.0.0"}
    status, said, _ = served.ask("/v1/uploads", b"", "POST", headers)
    assert status == 201
    return said["Location"]


def put(served, path, data, offset):
    """(status, bytes that are there)."""
    status, said, _ = served.ask(path, data, "PATCH", {"Content-Type": KIND, "Upload-Offset": offset})
    return status, said["Upload-Offset"]


def here(served, path):
    status, said, _ = served.ask(path, method="HEAD")
    assert status == 200
    return int(said["Upload-Offset"])


def break_off(served, path, data, offset, declared):
    """Send `data` of a request of `declared` bytes, and hang up."""
    host, port = served.address.removeprefix("http://").split(":")
    head = f"PATCH {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {KIND}\r\nUpload-Offset: {offset}\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(f"{head}Content-Length: {declared}\r\n\r\n".encode() + data)


def until_here(served, path, at_least):
    """What a broken request brought arrives a moment later."""
    for _ in range(600):
        if (now := here(served, path)) >= at_least:
            return now
    raise AssertionError(now)


def test_an_upload_goes_on_after_a_broken_line_and_gives_the_numbers_of_the_bulk_run(server, study, plain):  # noqa: F811
    data = zipped(study)
    path = begun(server, len(data))
    assert here(server, path) == 0
    assert put(server, path, data[:50_000], 0) == (204, "50000")
    break_off(server, path, data[50_000:90_000], 50_000, len(data) - 50_000)
    assert until_here(server, path, 90_000) == 90_000
    assert server.state(path.rpartition("/")[2])["state"] == "receiving"
    assert put(server, path, data[90_000:], 90_000) == (204, str(len(data)))
    (result,) = server.results(path.rpartition("/")[2])
    assert numbers(result) == numbers(batch(plain, result))
    assert here(server, path) == len(data)
    assert put(server, path, b"", len(data)) == (204, str(len(data)))


def test_who_sends_from_a_wrong_place_too_much_or_to_nobody_is_told_so(server):  # noqa: F811
    path = begun(server, 1000)
    good = {"Content-Type": KIND, "Upload-Offset": 0}
    cases = [
        (path, good | {"Upload-Offset": 7}, b"x", 409, "WRONG_OFFSET"),
        (path, good | {"Upload-Offset": "-1"}, b"x", 400, "BAD_REQUEST"),
        (path, {"Content-Type": KIND}, b"x", 400, "BAD_REQUEST"),
        (path, good | {"Content-Type": "text/plain"}, b"x", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (path, good | {"Tus-Resumable": "0.2.2"}, b"x", 412, "UNKNOWN_VERSION"),
        (path, good, b"x" * 1001, 413, "UPLOAD_TOO_LARGE"),
        ("/v1/uploads/nobody", good, b"x", 404, "NO_SUCH_STUDY"),
    ]
    for place, headers, data, status, code in cases:
        got, _, said = server.ask(place, data, "PATCH", headers)
        assert (got, json.loads(said)["code"]) == (status, code)
    for headers, status, code in (
        ({}, 400, "BAD_REQUEST"),
        ({"Upload-Length": "0"}, 400, "EMPTY_UPLOAD"),
        ({"Upload-Length": "9" * 30}, 400, "BAD_REQUEST"),
        ({"Upload-Length": str(9 << 20)}, 413, "UPLOAD_TOO_LARGE"),
        ({"Upload-Length": "9", "Upload-Metadata": "filename ?"}, 400, "BAD_REQUEST"),
    ):
        got, _, said = server.ask("/v1/uploads", b"", "POST", headers)
        assert (got, json.loads(said)["code"]) == (status, code)


def test_an_upload_that_was_begun_can_be_cancelled(server):  # noqa: F811
    path = begun(server, 1000, "../../CANARY.zip")
    put(server, path, b"x" * 10, 0)
    id_ = path.rpartition("/")[2]
    assert server.ask(f"/v1/studies/{id_}", method="DELETE")[0] == 204
    assert put(server, path, b"x", 10)[0] == 404
    assert server.state(id_)["state"] == "cancelled"


@pytest.mark.long
def test_a_server_that_ends_between_two_parts_keeps_the_first(weights, key, study, tmp_path):  # noqa: F811
    data = zipped(study)
    with serving(weights, tmp_path / "spool", key=key) as first:
        path = begun(first, len(data))
        put(first, path, data[:70_000], 0)
        first.process.kill()
    with serving(weights, tmp_path / "spool", key=key) as second:
        assert here(second, path) == 70_000
        put(second, path, data[70_000:], 70_000)
        assert second.answer(path.rpartition("/")[2])["state"] == "done"


def test_uploads_that_never_end_are_bounded_and_deleted(tmp_path):
    from pipeline.server.problems import Problem
    from pipeline.server.queue import Queue

    with Queue(tmp_path / "spool", max_queued=1, keep_s=0.0) as queue:
        queue.begin_upload("a", 10)
        with pytest.raises(Problem, match="QUEUE_FULL"):
            queue.begin_upload("b", 10)
        assert queue.receiving() == {}
        assert queue.delete_old() == 1
        with pytest.raises(Problem, match="NO_SUCH_STUDY"):
            queue.find_upload("a")
