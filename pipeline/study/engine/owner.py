"""The process that owns a GPU: `python -m pipeline.study.engine.owner`, its order on standard input.

Slices of all ranks that share the GPU wait in one line and fill one batch after the other. Whose slices lie beside a slice, and
where it lies, moves none of its bits: that is proven before the first batch (`graph.py`).
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence

import msgspec
import torch

from pipeline.errors import DeviceError
from pipeline.study.drenet import DreNet
from pipeline.study.drenet.checkpoint import load_checkpoint_bytes
from pipeline.study.engine.device import open_device
from pipeline.study.engine.fast import fast_network
from pipeline.study.engine.graph import FixedPass
from pipeline.study.engine.owned import COUNT, DONE, READY, Order
from pipeline.study.engine.region import Region

QUEUE = 1024
"""Ranks that may wait until the owner is ready."""
REFUSING_S = 5.0
"""Longer than ranks that start together are apart."""
LONELY_S = 60.0
"""An owner to whom nobody has come for so long ends."""


class Client:
    """A rank: its line, its memory, and how many of its slices are still to be computed."""

    def __init__(self, line: socket.socket, region: Region) -> None:
        self.line = line
        self.region = region
        self.n_waiting = 0

    def ask(self) -> int:
        """How many slices the rank now asks for; 0 where it has left."""
        try:
            word = self.line.recv(COUNT.size, socket.MSG_WAITALL)
        except ConnectionError:
            word = b""
        self.n_waiting = COUNT.unpack(word)[0] if len(word) == COUNT.size else 0
        return self.n_waiting


class Owner:
    """Serves whoever comes to `listener`, until the last rank has left."""

    def __init__(self, listener: socket.socket, networks: Sequence[DreNet], run: FixedPass) -> None:
        self._pass = run
        self._looks_F = [network.concat_net.in_features for network in networks]
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._clients: set[Client] = set()
        self._waiting: deque[tuple[Client, int]] = deque()

    def serve(self) -> None:
        """Slices that wait are computed; between two batches whoever asks is heard."""
        while self._hear():
            if self._waiting:
                self._compute()

    def _hear(self) -> bool:
        """Whether anybody is there: who comes is let in, whose line is closed is forgotten."""
        patience = 0.0 if self._waiting else None if self._clients else LONELY_S
        for key, _ in self._selector.select(patience):
            client: Client | None = key.data
            if client is None:
                self._let_in()
            elif client.ask():
                self._waiting.extend((client, number) for number in range(client.n_waiting))
            else:
                self._forget(client)
        return bool(self._clients)

    def _let_in(self) -> None:
        line, _ = self._listener.accept()
        word, descriptors, _, _ = socket.recv_fds(line, len(READY), 1)
        if word != READY or not descriptors:
            line.close()
            return
        client = Client(line, Region(descriptors[0], self._pass.slots, self._looks_F))
        os.close(descriptors[0])
        self._clients.add(client)
        self._selector.register(line, selectors.EVENT_READ, client)
        self._answer(client, READY)

    def _compute(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._pass.slots, len(self._waiting)))]
        for slot, (client, number) in enumerate(batch):
            given = (client.region.image, client.region.zoom, client.region.lung)
            self._pass.put(slot, *(torch.from_numpy(slices[number]) for slices in given))
        seen = self._pass.run(len(batch))
        rows, *looks = (tensor.cpu().numpy() for tensor in (seen.rows, *seen.looks))
        for slot, (client, number) in enumerate(batch):
            client.region.rows[number] = rows[slot]
            for kept, one in zip(client.region.looks, looks, strict=True):
                kept[number] = one[slot]
            client.n_waiting -= 1
            if not client.n_waiting:
                self._answer(client, DONE)

    def _answer(self, client: Client, word: bytes) -> None:
        try:
            client.line.sendall(word)
        except ConnectionError:
            self._forget(client)

    def _forget(self, client: Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._selector.unregister(client.line)
            client.line.close()
        self._waiting = deque(waiting for waiting in self._waiting if waiting[0] is not client)


def main() -> int:
    """Take the address, or leave it to who has it; prove the pass; serve. What fails is told to whoever comes."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # ranks that are asked to stop still finish their studies
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Order)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(order.address)
    except OSError:  # another owner came first
        return 0
    listener.listen(QUEUE)
    try:
        device = open_device(order.config, order.local_rank)
        networks = [fast_network(load_checkpoint_bytes(data), order.config, device) for data in order.checkpoints]
        owner = Owner(listener, networks, FixedPass(networks, device, order.slots))
    except DeviceError as error:
        _refuse(listener, str(error))
        return error.exit_code
    owner.serve()
    return 0


def _refuse(listener: socket.socket, why: str) -> None:
    """Tell everybody who waits, and who still comes within a few seconds."""
    listener.settimeout(REFUSING_S)
    try:
        while True:
            line, _ = listener.accept()
            with line:
                line.sendall(why.encode())
    except TimeoutError:
        return


if __name__ == "__main__":
    sys.exit(main())
