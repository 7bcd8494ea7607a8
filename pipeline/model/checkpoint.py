"""Checkpoints: the published layout, torchvision-named ResNet-50 backbones, and our own safetensors with metadata.

Nothing is unpickled (`weights_only=True`). A checkpoint that does not fit is refused, naming what is missing and the cure.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from pipeline.errors import ConfigurationError
from pipeline.model.drenet import DreNet, Metadata
from pipeline.store import write_whole

ZIP_MAGIC = b"PK\x03\x04"
PUBLISHED = Metadata(classes=("control", "covid"), positive=1)
CURE = "expected a DRE-Net checkpoint: the published layout (net_state_dict, 336 keys) or this project's safetensors"


def load_checkpoint(path: str | Path) -> DreNet:
    """The network at `path`, in eval mode, its metadata with the file's SHA-256. Raises ConfigurationError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    return load_checkpoint_bytes(data, name=str(path))


def load_checkpoint_bytes(data: bytes, *, name: str = "the checkpoint") -> DreNet:
    """The network whose checkpoint file holds `data`, in eval mode."""
    state, metadata = _published(data, name) if data.startswith(ZIP_MAGIC) else _own(data, name)
    network = DreNet(metadata.width)
    wanted = network.state_dict()
    for key in ("attention.weight", "attention.bias"):  # published checkpoints have none: the identity
        state.setdefault(key, wanted[key])
    _check(state, wanted, name)
    network.load_state_dict(state)
    network.metadata = replace(metadata, sha256=hashlib.sha256(data).hexdigest())
    return network.eval()


def save_checkpoint(network: DreNet, path: Path) -> None:
    """Write `network` with its metadata as safetensors, whole or not at all."""
    write_whole(path, checkpoint_bytes(network))


def checkpoint_bytes(network: DreNet) -> bytes:
    """`network` with its metadata as the bytes of a safetensors file."""
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    described = msgspec.json.encode(asdict(replace(network.metadata, sha256=""))).decode()
    return safetensors_bytes(state, metadata={"drenet": described})


def load_backbone(network: DreNet, path: Path) -> None:
    """Start `network` from a torchvision-named ResNet-50; its `fc` is used only where it has two classes."""
    state = _unpickled(path.read_bytes(), str(path))
    if state.get("fc.weight", torch.empty(0)).shape != network.pretrained_model.fc.weight.shape:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
        state |= {f"fc.{key}": value for key, value in network.pretrained_model.fc.state_dict().items()}
    _check(state, network.pretrained_model.state_dict(), str(path))
    network.pretrained_model.load_state_dict(state)


def _own(data: bytes, name: str) -> tuple[dict[str, Tensor], Metadata]:
    try:
        header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = msgspec.json.decode(header["__metadata__"]["drenet"], type=Metadata)
        return load_safetensors(data), metadata
    except (SafetensorError, msgspec.DecodeError, KeyError, TypeError, OverflowError) as error:
        raise ConfigurationError(f"{name} is damaged or foreign (CHECKPOINT_CORRUPT); {CURE}") from error


def _published(data: bytes, name: str) -> tuple[dict[str, Tensor], Metadata]:
    state = _unpickled(data, name)
    first = state.get("pretrained_model.conv1.weight")
    width = 1.0 if first is None else first.shape[0] / 64
    return state, replace(PUBLISHED, width=width)


def _unpickled(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a torch file by key, without the prefix that a parallel wrapper leaves."""
    try:
        content: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds here, and each means the same to the user
        raise ConfigurationError(f"{name} cannot be read as tensors (CHECKPOINT_CORRUPT); {CURE}") from error
    state = content.get("net_state_dict", content) if isinstance(content, dict) else {}
    return {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}


def _check(state: dict[str, Tensor], wanted: dict[str, Tensor], name: str) -> None:
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - wanted.keys())
    shapes = sorted(key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape)
    for what, keys in (("lacks", missing), ("has unknown", unknown), ("has other shapes for", shapes)):
        if keys:
            raise ConfigurationError(
                f"{name} {what} {len(keys)} keys ({', '.join(keys[:3])}, ...) (CHECKPOINT_CORRUPT); {CURE}"
            )
