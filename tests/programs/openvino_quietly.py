"""Opens an OpenVINO engine, refuses every connection, and says so."""

import sys
import time


def watch(event, _):
    if event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
        print("CONNECTS", event, flush=True)
        raise OSError("no network here")


sys.addaudithook(watch)

from pipeline.config import EngineConfig  # noqa: E402  the hook comes first
from pipeline.study.drenet import formula_network  # noqa: E402
from pipeline.study.drenet.checkpoint import kept_of  # noqa: E402
from pipeline.study.engine import Engine  # noqa: E402

Engine([kept_of(formula_network(1 / 16))], EngineConfig(name="openvino"))
time.sleep(1)
print("READY")
