"""Checkpoints without torch: what a file says of its network, and every tensor by its name.

The published layout, torchvision-named ResNet-50 backbones, and this project's safetensors with metadata. A checkpoint that
does not fit is refused, naming what is missing and the cure. torch is loaded only for files that it wrote, of which nothing is
unpickled but tensors (`weights_only=True`); who computes without it starts seconds earlier.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import deserialize
from safetensors.numpy import save

from pipeline.errors import ConfigurationError
from pipeline.files import LFS_POINTER
from pipeline.records import DRAWN, Details
from pipeline.study.anchors import N_DETAILS
from pipeline.study.shipped import DIGESTS

Array = npt.NDArray[Any]
State = dict[str, Array]
Layout = Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]]
"""Shape and type of each tensor by its name."""

BLOCKS = (3, 4, 6, 3)
"""Of ResNet-50, by the stage."""
EXPANSION = 4
N_CONVOLUTIONS = 3 * sum(BLOCKS)
"""Those of the blocks, shortcuts aside."""
BASELINES = ("resnet50", "vgg16", "densenet121")
"""What DRE-Net is compared with."""
ADDED = ("attention.weight", "attention.bias")
"""What published checkpoints lack: the learned attention; zeros are the identity."""
WRAPPERS = ("net_state_dict", "state_dict", "model")
"""Where trainers keep the state dict: the paper's authors, Lightning, and many a script."""
COUNTER = "n_averaged"
"""What torch's averaging of weights keeps beside them."""
CURE = "expected a DRE-Net checkpoint: the published layout (net_state_dict, 336 keys) or this project's safetensors"
TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U8": np.uint8, "BOOL": np.bool_, "BF16": np.uint16,
}  # fmt: skip
"""As safetensors names them; of bfloat16, which numpy lacks, the bits."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How looks of one size are rounded to 8 bits, measured on slices (`study/engine/quantise.py`).

    `tops`: the most that the input of each rounded convolution reaches, in the network's order. `shift`: what is added to each
    channel [F] of the feature map, so that its mean stays.
    """

    tops: tuple[float, ...]
    shift: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a checkpoint says of itself; `threshold` is the operating point chosen on validation, if any.

    `rounding`, of the details and of the second look, is empty where it was not measured.
    """

    classes: tuple[str, ...] = ("negative", "positive")
    positive: int = 1
    width: float = 1.0
    architecture: str = "drenet"
    task: str = ""
    threshold: float | None = None
    meaning: str = ""
    details: Details = "anywhere"
    rounding: tuple[Rounding, ...] = ()
    sha256: str = ""


PUBLISHED = Metadata(classes=("control", "covid"), positive=1)
"""What is assumed of a checkpoint that says nothing of itself: the second class is the positive one."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds: `state`, its tensors in the types that they are computed in, by the names of published checkpoints."""

    metadata: Metadata
    state: State


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The DRE-Net at `path`, its metadata with the file's SHA-256. Raises ConfigurationError."""
    return checkpoint_of(read_file(Path(path)), str(path))


def checkpoint_of(data: bytes, name: str = "the checkpoint") -> Checkpoint:
    """The DRE-Net whose checkpoint file holds `data`. Raises ConfigurationError."""
    state, metadata = content_of(data, name)
    if metadata.architecture != "drenet":
        raise ConfigurationError(f"{name} holds a {metadata.architecture}, a baseline: screening needs a DRE-Net")
    return Checkpoint(metadata, fitted(state, drenet_layout(metadata.width, len(metadata.classes)), name))


def bytes_of(checkpoint: Checkpoint) -> bytes:
    """`checkpoint` as the bytes of a safetensors file."""
    state = {key: np.asarray(value, order="C") for key, value in checkpoint.state.items()}
    described = msgspec.json.encode(asdict(replace(checkpoint.metadata, sha256=""))).decode()
    return save(state, metadata={"drenet": described})


def content_of(data: bytes, name: str) -> tuple[State, Metadata]:
    """The tensors of a file, whether or not they fit, and what it says of itself. Raises ConfigurationError."""
    state, described = tensors_of(data, name)
    metadata = _known(replace(_metadata(state, described, name), sha256=hashlib.sha256(data).hexdigest()))
    known = ("drenet", *BASELINES)
    if metadata.architecture not in known:
        raise ConfigurationError(
            f"{name} holds a {metadata.architecture!r}; this version knows {', '.join(known)} (CHECKPOINT_CORRUPT)"
        )
    return state, metadata


def _known(metadata: Metadata) -> Metadata:
    """A shipped network says what it was trained on, which its file does not."""
    return replace(metadata, meaning=f"{metadata.meaning}; {DRAWN}") if metadata.sha256 in DIGESTS else metadata


def read_file(path: Path) -> bytes:
    """All of a checkpoint's file. Raises ConfigurationError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the checkpoint {path}: {error.strerror}") from error


def tensors_of(data: bytes, name: str) -> tuple[State, str]:
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


def _from_safetensors(data: bytes) -> tuple[State, str]:
    header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")])
    state = {key: _array(**tensor) for key, tensor in deserialize(data)}  # type: ignore[no-untyped-call]
    return state, header.get("__metadata__", {}).get("drenet", "")


def _array(dtype: str, shape: Sequence[int], data: bytearray) -> Array:
    bits: Array = np.frombuffer(data, TYPES[dtype]).reshape(shape)
    return (bits.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else bits


def _from_torch(data: bytes) -> State:
    """A state dict, plain or as trainers wrap it: under a name that is known, or the only one that holds tensors."""
    import torch

    content: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    while isinstance(content, dict) and (inside := _inside(content)):
        content = inside
    state = content if isinstance(content, dict) else {}
    return {str(key): _of_torch(value) for key, value in state.items() if _is_tensor(value)}


def _of_torch(tensor: Any) -> Array:
    plain = tensor.detach()
    return np.asarray(plain.float() if plain.is_floating_point() else plain)


def _inside(content: dict[Any, Any]) -> dict[Any, Any] | None:
    """What is wrapped in `content`, if anything: no state dict holds another. Raises _SeveralNetworksError."""
    known = [content[name] for name in WRAPPERS if isinstance(content.get(name), dict)]
    others = {str(name): value for name, value in content.items() if _holds_tensors(value)}
    if not known and len(others) > 1:
        raise _SeveralNetworksError(", ".join(sorted(others)))
    return next(iter([*known, *others.values()]), None)


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(map(_is_tensor, value.values()))


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


class _SeveralNetworksError(Exception):
    """A file holds several networks, of the names in its message."""


def _bare(state: State) -> State:
    """`state` without the names that all of its keys stand under: no network here has but one part.

    torch.compile puts `_orig_mod.` before every key, DataParallel `module.`, Lightning the attribute that holds the network.
    """
    state = {key: value for key, value in state.items() if key != COUNTER}
    while len({key.partition(".")[0] for key in state}) == 1 and all("." in key for key in state):
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def _metadata(state: State, described: str, name: str) -> Metadata:
    """What the file says of itself, or else the published defaults at the width of its first convolution."""
    first = state.get("pretrained_model.conv1.weight", np.empty(64)).shape
    try:
        published = replace(PUBLISHED, width=(first[0] if first else 1) / 64)
        metadata = msgspec.json.decode(described, type=Metadata) if described else published
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{name}: its metadata is damaged: {error} (CHECKPOINT_CORRUPT); {CURE}") from error
    n_classes = len(metadata.classes)
    fits = n_classes >= 2 and 0 <= metadata.positive < n_classes and 1 / 64 <= metadata.width <= 4
    if not fits or not _is_rounding(metadata.rounding, state):
        raise ConfigurationError(f"{name}: its metadata fits no DRE-Net (CHECKPOINT_CORRUPT); {CURE}")
    return metadata


def _is_rounding(rounding: Sequence[Rounding], state: State) -> bool:
    """None, or one of the details and one of the second look, as this network's convolutions and channels want them."""
    n_features = state["attention.weight"].shape[1] if rounding and "attention.weight" in state else 0
    fits = (len(one.tops) == N_CONVOLUTIONS and min(one.tops) > 0 and len(one.shift) == n_features for one in rounding)
    return len(rounding) in (0, 2) and all(fits)


def fitted(state: State, wanted: Layout, name: str) -> State:
    """`state` completed and in the types of `wanted`; refused where keys or shapes differ, or a number is none."""
    state = {key: np.zeros(shape, dtype) for key, (shape, dtype) in wanted.items() if _may_be_absent(key)} | state
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - wanted.keys())
    shapes = sorted(key for key in wanted.keys() & state.keys() if wanted[key][0] != state[key].shape)
    for what, keys in (("lacks", missing), ("has unknown", unknown), ("has other shapes for", shapes)):
        if keys:
            raise ConfigurationError(
                f"{name} {what} {len(keys)} keys ({', '.join(keys[:3])}, ...) (CHECKPOINT_CORRUPT); {CURE}"
            )
    typed = {key: state[key].astype(dtype, copy=False) for key, (_, dtype) in wanted.items()}
    wild = sorted(key for key, value in typed.items() if not np.isfinite(value).all())
    if wild:
        raise ConfigurationError(
            f"{name} holds NaN or infinity in {len(wild)} of its tensors ({', '.join(wild[:3])}) (CHECKPOINT_CORRUPT): its "
            "training went astray, or the file is damaged; name another checkpoint"
        )
    return typed


def _may_be_absent(key: str) -> bool:
    return key in ADDED or key.endswith("num_batches_tracked")  # old backbones have no such counter


def drenet_layout(width: float, n_classes: int) -> Layout:
    """Of a DRE-Net: what `DreNet(width, n_classes).state_dict()` holds (a test compares them)."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, n_out: int, n_in: int, side: int) -> None:
        shapes[f"{name}.weight"] = (n_out, n_in, side, side)

    def norm(name: str, n: int) -> None:
        shapes.update({f"{name}.{part}": (n,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    def linear(name: str, n_out: int, n_in: int) -> None:
        shapes.update({f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)})

    n_in = int(64 * width)
    conv("pretrained_model.conv1", n_in, 3, 7)
    norm("pretrained_model.bn1", n_in)
    for stage, n_blocks in enumerate(BLOCKS):
        n_mid = int(64 * width) << stage
        for number in range(n_blocks):
            block = f"pretrained_model.layer{stage + 1}.{number}"
            sizes = ((n_mid, n_in, 1), (n_mid, n_mid, 3), (n_mid * EXPANSION, n_mid, 1))
            for place, (n_out, n_before, side) in enumerate(sizes, start=1):
                conv(f"{block}.conv{place}", n_out, n_before, side)
                norm(f"{block}.bn{place}", n_out)
            if number == 0:
                conv(f"{block}.downsample.0", n_mid * EXPANSION, n_in, 1)
                norm(f"{block}.downsample.1", n_mid * EXPANSION)
            n_in = n_mid * EXPANSION
    n_pyramid = pyramid_width(width)
    for number, n_before in enumerate((n_in, n_pyramid, n_pyramid), start=1):
        conv(f"proposal_net.down{number}", n_pyramid, n_before, 3)
        conv(f"proposal_net.tidy{number}", 1, n_pyramid, 1)
        shapes.update({f"proposal_net.down{number}.bias": (n_pyramid,), f"proposal_net.tidy{number}.bias": (1,)})
    linear("pretrained_model.fc", n_classes, n_in)
    linear("concat_net", n_classes, n_in * (N_DETAILS + 2))
    linear("partcls_net", n_classes, n_in)
    linear("attention", 1, n_in)
    return {name: (shape, np.float32 if shape else np.int64) for name, shape in shapes.items()}


def pyramid_width(width: float) -> int:
    """Features inside the proposal pyramid."""
    return max(8, int(128 * width))
