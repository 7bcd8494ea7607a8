"""Networks of torch and their checkpoints; what a file holds is `study/checkpoint.py`'s to read.

Reading one holds the file's bytes and one copy of the tensors; the network is built around that copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigurationError
from pipeline.files import write_whole
from pipeline.study.checkpoint import (
    Checkpoint,
    Layout,
    State,
    bytes_of,
    checkpoint_of,
    content_of,
    drenet_layout,
    fitted,
    read_checkpoint,
    read_file,
    tensors_of,
)
from pipeline.study.drenet.baselines import Baseline
from pipeline.study.drenet.network import DreNet, network_of


def load_checkpoint(path: str | Path) -> DreNet:
    """The DRE-Net at `path`, in eval mode, its metadata with the file's SHA-256. Raises ConfigurationError."""
    return drenet_of(read_checkpoint(path))


def load_checkpoint_bytes(data: bytes, *, name: str = "the checkpoint") -> DreNet:
    """The DRE-Net whose checkpoint file holds `data`, in eval mode."""
    return drenet_of(checkpoint_of(data, name))


def drenet_of(checkpoint: Checkpoint) -> DreNet:
    """The network around the very tensors of `checkpoint`, in eval mode."""
    return network_of(_tensors(checkpoint.state), checkpoint.metadata)


def load_network(path: str | Path) -> DreNet | Baseline:
    """The network at `path`, whichever its metadata say it is, in eval mode. Raises ConfigurationError."""
    state, metadata = content_of(read_file(Path(path)), str(path))
    if metadata.architecture == "drenet":
        layout = drenet_layout(metadata.width, len(metadata.classes))
        return drenet_of(Checkpoint(metadata, fitted(state, layout, str(path))))
    baseline = Baseline(metadata.architecture, metadata.width, len(metadata.classes))
    baseline.load_state_dict(_tensors(fitted(state, _layout(baseline), str(path))))
    baseline.metadata = metadata
    return baseline.eval()


def load_start(network: DreNet, path: str | Path) -> None:
    """Start `network` from a DRE-Net of the same width and classes, or from a torchvision-named ResNet-50."""
    data = read_file(Path(path))
    name = str(path)
    state, _ = tensors_of(data, name)
    if "conv1.weight" in state:
        _load_backbone(network, state, name)
        return
    try:
        network.load_state_dict(load_checkpoint_bytes(data, name=name).state_dict())
    except RuntimeError as error:
        raise ConfigurationError(f"{name} is a DRE-Net of another width or other classes than the recipe's") from error


def save_checkpoint(network: DreNet | Baseline, path: Path) -> None:
    """Write `network` with its metadata as safetensors, whole or not at all."""
    write_whole(path, checkpoint_bytes(network))


def checkpoint_bytes(network: DreNet | Baseline) -> bytes:
    """`network` with its metadata as the bytes of a safetensors file."""
    return bytes_of(kept_of(network))


def kept_of(network: DreNet | Baseline) -> Checkpoint:
    """What a checkpoint of `network` holds; the tensors are shared with it."""
    state = {key: value.detach().cpu().numpy() for key, value in network.state_dict().items()}
    return Checkpoint(network.metadata, state)


def _load_backbone(network: DreNet, state: State, name: str) -> None:
    """The `fc` of a torchvision-named ResNet-50 is used only where it has two classes."""
    trunk = network.pretrained_model
    own = trunk.state_dict()
    if "fc.weight" not in state or state["fc.weight"].shape != own["fc.weight"].shape:
        state |= {key: value.numpy() for key, value in own.items() if key.startswith("fc.")}
    trunk.load_state_dict(_tensors(fitted(state, _layout(trunk), name)))


def _layout(network: nn.Module) -> Layout:
    return {key: (tuple(value.shape), value.numpy().dtype) for key, value in network.state_dict().items()}


def _tensors(state: State) -> Mapping[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in state.items()}
