"""A rank's way to the process that owns its GPU: one context, one graph, batches filled by all ranks that share it.

The owner is started by whoever finds none, and listens at an abstract address, which is taken by one process and leaves no
file. It serves whoever runs as the same user with the same networks, engine and program, and ends when the last one leaves.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

import pipeline
from pipeline.config import EngineConfig
from pipeline.errors import DeviceError
from pipeline.study.checkpoint import Checkpoint, bytes_of
from pipeline.study.engine.device import open_device
from pipeline.study.engine.graph import SLOTS
from pipeline.study.engine.region import Region
from pipeline.study.engine.rows import Grey, Lung, SliceRows

START_S = 300.0
"""So long an owner may take to load its networks and to prove itself."""
AGAIN_S = 0.1
"""Between two looks for an owner that is being started."""
READY = b"ready"
DONE = b"!"
MOST = 4096
"""Bytes of an owner's first answer, at most."""
COUNT = struct.Struct("<I")
CREDENTIALS = struct.Struct("3i")
_started: list[subprocess.Popen[bytes]] = []
"""Owners that this rank has started; they may outlive it."""


class Order(msgspec.Struct, frozen=True):
    """What an owner is started with."""

    address: bytes
    config: EngineConfig
    checkpoints: tuple[bytes, ...]
    local_rank: int
    slots: int


class OwnedPass:
    """One pass, computed by the owner of this rank's GPU beside other ranks' slices. Raises DeviceError where there is none."""

    def __init__(self, networks: Sequence[Checkpoint], config: EngineConfig, local_rank: int, slots: int = SLOTS) -> None:
        device = open_device(config, local_rank)
        checkpoints = tuple(map(bytes_of, networks))
        order = Order(_address(config, checkpoints, slots, device), config, checkpoints, local_rank, slots)
        descriptor = os.memfd_create("drenet")
        self._region = Region(descriptor, slots, [network.state["concat_net.weight"].shape[1] for network in networks])
        self._socket = _connected(order, descriptor)
        os.close(descriptor)

    def __call__(self, image_NHW: Grey, zoom_NHW: Grey, lung_NHW: Lung) -> SliceRows:
        """As of one pass; at most `slots` slices."""
        self._region.put(image_NHW, zoom_NHW, lung_NHW)
        try:
            self._socket.sendall(COUNT.pack(len(image_NHW)))
            answer = self._socket.recv(len(DONE))
        except ConnectionError:
            answer = b""
        if answer != DONE:
            raise DeviceError("the process that owns this GPU has ended: what it wrote last says why; start the run again")
        return self._region.seen(len(image_NHW))

    def close(self) -> None:
        """Leave; the owner ends with the last rank that does."""
        self._socket.close()


def _address(config: EngineConfig, checkpoints: Sequence[bytes], slots: int, device: torch.device) -> bytes:
    """One for each GPU, user, program and set of networks; the zero makes it a name without a file."""
    gpu = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else str(device)
    told = [str(os.getuid()), sys.executable, str(Path(pipeline.__file__)), str(torch.__version__), gpu]
    digest = hashlib.sha256(msgspec.json.encode((told, config, slots)))
    for checkpoint in checkpoints:
        digest.update(checkpoint)
    return b"\0drenet-" + digest.hexdigest().encode()


def _connected(order: Order, descriptor: int) -> socket.socket:
    """A line to an owner that is ready; one is started where there is none, or where the one that was there has just left."""
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.settimeout(START_S)
        try:
            line.connect(order.address)
            _check_is_ours(line)
            socket.send_fds(line, [READY], [descriptor])
            answer = line.recv(MOST)
        except ConnectionError:
            answer = b""
        if answer == READY:
            line.settimeout(None)
            return line
        line.close()
        if answer:
            raise DeviceError(answer.decode())
        if not any(owner.poll() is None for owner in _started):
            _started.append(_start(order))
        time.sleep(AGAIN_S)
    raise DeviceError(f"nothing that owns this GPU was ready within {START_S:.0f} s")


def _check_is_ours(line: socket.socket) -> None:
    _, uid, _ = CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    if uid != os.getuid():
        raise DeviceError("another user answers at the address of this GPU's owner")


def _start(order: Order) -> subprocess.Popen[bytes]:
    """In a session of its own: what ends a rank by signal lets it finish its study first, which needs its owner."""
    root = str(Path(pipeline.__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    owner = subprocess.Popen(
        [sys.executable, "-m", "pipeline.study.engine.owner"],
        stdin=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
    )
    assert owner.stdin
    with owner.stdin as pipe:
        pipe.write(msgspec.msgpack.encode(order))
    return owner
