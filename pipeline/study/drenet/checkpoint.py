"""Checkpoints: the published layout, torchvision-named ResNet-50 backbones, and our own safetensors with metadata.

Nothing is unpickled but tensors (`weights_only=True`). A checkpoint that does not fit is refused, naming what is missing and
the cure. Reading one holds the file's bytes and one copy of the tensors; the network is built around that copy.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from pipeline.errors import ConfigurationError
from pipeline.files import LFS_POINTER, write_whole
from pipeline.records import DRAWN
from pipeline.study.drenet.baselines import ARCHITECTURES, Baseline
from pipeline.study.drenet.network import DreNet, Metadata, Rounding, empty_network, filled
from pipeline.study.drenet.resnet import N_CONVOLUTIONS
from pipeline.study.drenet.shipped import DIGESTS

PUBLISHED = Metadata(classes=("control", "covid"), positive=1)
"""What is assumed of a checkpoint that says nothing of itself: the second class is the positive one."""
ADDED = ("attention.weight", "attention.bias")
"""What published checkpoints lack: the learned attention; zeros are the identity."""
WRAPPERS = ("net_state_dict", "state_dict", "model")
"""Where trainers keep the state dict: the paper's authors, Lightning, and many a script."""
COUNTER = "n_averaged"
"""What torch's averaging of weights keeps beside them."""
CURE = "expected a DRE-Net checkpoint: the published layout (net_state_dict, 336 keys) or this project's safetensors"


def load_checkpoint(path: str | Path) -> DreNet:
    """The DRE-Net at `path`, in eval mode, its metadata with the file's SHA-256. Raises ConfigurationError."""
    return load_checkpoint_bytes(_read(Path(path)), name=str(path))


def load_checkpoint_bytes(data: bytes, *, name: str = "the checkpoint") -> DreNet:
    """The DRE-Net whose checkpoint file holds `data`, in eval mode."""
    network = _network(data, name)
    if not isinstance(network, DreNet):
        raise ConfigurationError(f"{name} holds a {network.metadata.architecture}, a baseline: screening needs a DRE-Net")
    return network


def load_network(path: str | Path) -> DreNet | Baseline:
    """The network at `path`, whichever its metadata say it is, in eval mode. Raises ConfigurationError."""
    return _network(_read(Path(path)), str(path))


def load_start(network: DreNet, path: str | Path) -> None:
    """Start `network` from a DRE-Net of the same width and classes, or from a torchvision-named ResNet-50."""
    data = _read(Path(path))
    name = str(path)
    state, _ = _tensors(data, name)
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
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    described = msgspec.json.encode(asdict(replace(network.metadata, sha256=""))).decode()
    return safetensors_bytes(state, metadata={"drenet": described})


def _network(data: bytes, name: str) -> DreNet | Baseline:
    """The file is read once; its metadata say what is to be built."""
    state, described = _tensors(data, name)
    metadata = _known(replace(_metadata(state, described, name), sha256=hashlib.sha256(data).hexdigest()))
    if metadata.architecture == "drenet":
        network = empty_network(metadata)
        return filled(network, _fitted(state, network.state_dict(), name))
    if metadata.architecture not in ARCHITECTURES:
        known = ", ".join(("drenet", *ARCHITECTURES))
        raise ConfigurationError(f"{name} holds a {metadata.architecture!r}; this version knows {known} (CHECKPOINT_CORRUPT)")
    baseline = Baseline(metadata.architecture, metadata.width, len(metadata.classes))
    baseline.load_state_dict(_fitted(state, baseline.state_dict(), name))
    baseline.metadata = metadata
    return baseline.eval()


def _known(metadata: Metadata) -> Metadata:
    """A shipped network says what it was trained on, which its file does not."""
    return replace(metadata, meaning=f"{metadata.meaning}; {DRAWN}") if metadata.sha256 in DIGESTS else metadata


def _load_backbone(network: DreNet, state: dict[str, Tensor], name: str) -> None:
    """The `fc` of a torchvision-named ResNet-50 is used only where it has two classes."""
    trunk = network.pretrained_model
    wanted = trunk.state_dict()
    if "fc.weight" not in state or state["fc.weight"].shape != wanted["fc.weight"].shape:
        state |= {key: value for key, value in wanted.items() if key.startswith("fc.")}
    trunk.load_state_dict(_fitted(state, wanted, name))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the checkpoint {path}: {error.strerror}") from error


def _tensors(data: bytes, name: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors or torch file by key, and what the file says of itself as JSON ("" if nothing)."""
    if data.startswith(LFS_POINTER):
        raise ConfigurationError(
            f"{name} is a Git LFS pointer and not the checkpoint (CHECKPOINT_CORRUPT): git lfs pull fetches that"
        )
    is_safetensors = data[8:9] == b"{"
    try:
        state, described = _from_safetensors(data) if is_safetensors else (_from_torch(data), "")
    except _SeveralNetworksError as error:
        raise ConfigurationError(
            f"{name} holds several networks ({error}) (CHECKPOINT_CORRUPT): save the one that is meant alone"
        ) from error
    except Exception as error:  # the two libraries raise a dozen kinds here, and each means the same to the user
        raise ConfigurationError(
            f"{name} cannot be read as tensors, and other objects are never unpickled (CHECKPOINT_CORRUPT); {CURE}"
        ) from error
    return _bare(state), described


def _from_safetensors(data: bytes) -> tuple[dict[str, Tensor], str]:
    header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load_safetensors(data), header.get("__metadata__", {}).get("drenet", "")


def _from_torch(data: bytes) -> dict[str, Tensor]:
    """A state dict, plain or as trainers wrap it: under a name that is known, or the only one that holds tensors."""
    content: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    while isinstance(content, dict) and (inside := _inside(content)):
        content = inside
    state = content if isinstance(content, dict) else {}
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _inside(content: dict[Any, Any]) -> dict[Any, Any] | None:
    """What is wrapped in `content`, if anything: no state dict holds another. Raises _SeveralNetworksError."""
    known = [content[name] for name in WRAPPERS if isinstance(content.get(name), dict)]
    others = {str(name): value for name, value in content.items() if _holds_tensors(value)}
    if not known and len(others) > 1:
        raise _SeveralNetworksError(", ".join(sorted(others)))
    return next(iter([*known, *others.values()]), None)


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(one, Tensor) for one in value.values())


class _SeveralNetworksError(Exception):
    """A file holds several networks, of the names in its message."""


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` without the names that all of its keys stand under: no network here has but one part.

    torch.compile puts `_orig_mod.` before every key, DataParallel `module.`, Lightning the attribute that holds the network.
    """
    state = {key: value for key, value in state.items() if key != COUNTER}
    while len({key.partition(".")[0] for key in state}) == 1 and all("." in key for key in state):
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def _metadata(state: dict[str, Tensor], described: str, name: str) -> Metadata:
    """What the file says of itself, or else the published defaults at the width of its first convolution."""
    width = state.get("pretrained_model.conv1.weight", torch.empty(64)).shape[:1].numel() / 64
    try:
        metadata = msgspec.json.decode(described, type=Metadata) if described else replace(PUBLISHED, width=width)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{name}: its metadata is damaged: {error} (CHECKPOINT_CORRUPT); {CURE}") from error
    n_classes = len(metadata.classes)
    fits = n_classes >= 2 and 0 <= metadata.positive < n_classes and 1 / 64 <= metadata.width <= 4
    if not fits or not _is_rounding(metadata.rounding, state):
        raise ConfigurationError(f"{name}: its metadata fits no DRE-Net (CHECKPOINT_CORRUPT); {CURE}")
    return metadata


def _is_rounding(rounding: Sequence[Rounding], state: dict[str, Tensor]) -> bool:
    """None, or one of the details and one of the second look, as this network's convolutions and channels want them."""
    n_features = state["attention.weight"].shape[1] if rounding and "attention.weight" in state else 0
    fits = (len(one.tops) == N_CONVOLUTIONS and min(one.tops) > 0 and len(one.shift) == n_features for one in rounding)
    return len(rounding) in (0, 2) and all(fits)


def _fitted(state: dict[str, Tensor], wanted: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """`state` completed and in the types of `wanted`; refused where keys or shapes differ, or a number is none."""
    state = {key: _absent(value) for key, value in wanted.items() if _may_be_absent(key)} | state
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - wanted.keys())
    shapes = sorted(key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape)
    for what, keys in (("lacks", missing), ("has unknown", unknown), ("has other shapes for", shapes)):
        if keys:
            raise ConfigurationError(
                f"{name} {what} {len(keys)} keys ({', '.join(keys[:3])}, ...) (CHECKPOINT_CORRUPT); {CURE}"
            )
    fitted = {key: state[key].to(value.dtype) for key, value in wanted.items()}
    wild = sorted(key for key, value in fitted.items() if not _is_finite(value))
    if wild:
        raise ConfigurationError(
            f"{name} holds NaN or infinity in {len(wild)} of its tensors ({', '.join(wild[:3])}) (CHECKPOINT_CORRUPT): its "
            "training went astray, or the file is damaged; name another checkpoint"
        )
    return fitted


def _is_finite(value: Tensor) -> bool:
    """By numpy: on a hundred million bytes torch takes ten times as long, and every core."""
    return bool(np.isfinite(value.detach().float().cpu().numpy()).all())


def _may_be_absent(key: str) -> bool:
    return key in ADDED or key.endswith("num_batches_tracked")  # old backbones have no such counter


def _absent(value: Tensor) -> Tensor:
    return torch.zeros(value.shape, dtype=value.dtype)
