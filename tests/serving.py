"""A server as its users meet it: a process of its own on a free port, spoken to over HTTP."""

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from pipeline.records import StudyResult

ROOT = Path(__file__).parents[1]
HANG_S = 240
FINAL = ("done", "failed", "cancelled")


class Served:
    """One running server."""

    def __init__(self, process, address, logs, token=""):
        self.process, self.address, self.logs, self.token = process, address, logs, token

    def ask(self, path, body=None, method=None, headers=()):
        """(status, headers, body)."""
        given = dict(headers) | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        asked = urllib.request.Request(self.address + path, data=body, method=method, headers=given)
        try:
            with urllib.request.urlopen(asked, timeout=HANG_S) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def send(self, files, field="files"):
        """POST (name, bytes) pairs; (status, JSON)."""
        kind, body = multipart(files, field)
        status, _, said = self.ask("/v1/studies", body, headers={"Content-Type": kind})
        return status, json.loads(said)

    def accepted(self, files):
        status, said = self.send(files)
        assert status == 202, said
        return said["id"]

    def state(self, id_):
        status, _, said = self.ask(f"/v1/studies/{id_}")
        assert status == 200, said
        return json.loads(said)

    def answer(self, id_):
        """The study, once nothing more will become of it."""
        end = time.monotonic() + HANG_S
        while (said := self.state(id_))["state"] not in FINAL:
            assert time.monotonic() < end, said["state"]
            time.sleep(0.1)
        return said

    def results(self, id_):
        """Its results as records."""
        return msgspec.convert(self.answer(id_)["results"], list[StudyResult])

    def workers(self):
        """Process IDs of its workers."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if int(stat[1]) == self.process.pid and b"pipeline.server.worker" in line:
                found.append(int(folder.name))
        return found


def multipart(files, field="files"):
    """(content type, body)."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in files
    ]
    return f"multipart/form-data; boundary={mark}", b"".join(parts) + f"--{mark}--\r\n".encode()


@contextmanager
def serving(weights, spool, *more, key, token=""):
    """Start `drenet serve` and end it."""
    logs = spool.with_name(f"{spool.name}-{time.monotonic_ns()}.log")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DRENET_KEY_FILE": str(key)}
    command = [sys.executable, "-m", "pipeline", "serve", "--weights", str(weights), "--port", "0", "--spool", str(spool)]
    with logs.open("w") as file:
        process = subprocess.Popen(
            [*command, *map(str, more)], env=environment, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True
        )
    try:
        said = process.stdout.readline()
        assert "http://" in said, logs.read_text()
        yield Served(process, said.split()[3].rstrip("/"), logs, token)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=90)
        finally:
            process.kill()
            process.stdout.close()


@contextmanager
def line_that_breaks(address, after):
    """The address of a proxy for `address` whose lines all break, once, when `after` bytes have been sent over it."""
    host, port = address.removeprefix("http://").split(":")
    line = _Line((host, int(port)), after)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), line.handler) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
        proxy.shutdown()


class _Line:
    """What the proxy's connections share: how many bytes are left until all break."""

    def __init__(self, server, after):
        self.server, self.left = server, after

    def handler(self, request, *_):
        with socket.create_connection(self.server) as there:
            back = threading.Thread(target=self._carry, args=(there, request, False), daemon=True)
            back.start()
            self._carry(request, there, True)
            for one in (request, there):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            back.join()

    def _carry(self, source, to, counts):
        with suppress(OSError):
            while data := source.recv(10_000):
                to.sendall(data)
                if counts and self.left > 0:
                    self.left -= len(data)
                    if self.left <= 0:
                        return
