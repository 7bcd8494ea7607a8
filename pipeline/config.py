"""TOML -> one frozen configuration, read once by root; every default is the paper's or says why not.

Unknown keys are errors that name the known ones. A stage receives its own section only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from pipeline.errors import ConfigurationError


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: frozen, and strict about unknown keys."""


class SeriesConfig(Section, frozen=True):
    """Which series of a study is chosen."""

    min_slices: int = 20  # distinct positions
    min_extent_mm: float = 120.0
    max_spacing_mm: float = 10.0
    kernels: Literal["lung", "soft", "any"] = "lung"  # must match what the network was trained on
    max_matrix: int = 4096


class SliceConfig(Section, frozen=True):
    """Which slices of the series are prepared."""

    count: int = 15
    first: float = 0.0  # fractions of the series' z range
    last: float = 1.0
    keep_fraction: float = 0.40  # kept when its lung area is at least this share of the study's largest
    min_kept: int = 1


class LungConfig(Section, frozen=True):
    """How the lung is found."""

    recipe: Literal["chest-wall", "published"] = "chest-wall"
    margin_px: int = 13


class FillConfig(Section, frozen=True):
    """What covers the blank around the lung."""

    kind: Literal["warped", "translated", "black"] = "warped"  # paper: 10 translated and rotated lungs
    copies: int = 10
    max_rotation_deg: float = 180.0
    run_seed: int = 0


class WindowConfig(Section, frozen=True):
    """HU -> grey."""

    kind: Literal["window", "jpeg"] = "window"  # jpeg: grey = (hu + 1000) / 3, the published code's
    level_hu: float = -700.0
    width_hu: float = 1500.0
    image_px: int = 448
    zoom_px: int = 600


class EngineConfig(Section, frozen=True):
    """What computes the network, and how exactly."""

    name: Literal["auto", "torch", "cuda", "openvino"] = "auto"  # openvino only when named
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 1  # per rank, for torch, OpenCV and BLAS; never derived from the number of ranks


class RunConfig(Section, frozen=True):
    """How a run is carried out; none of it changes a result."""

    fsync_every_s: float = 0.0
    max_attempts: int = 3
    max_internal_errors: int = 20  # or 1 % of the finished studies, whichever is more
    root_computes_up_to: int = 32  # ranks; above that root only deals
    decode_cpu_s: float = 30.0  # CPU seconds a compressed frame may take
    progress_every_s: float = 30.0


class Config(Section, frozen=True):
    """The whole configuration of a run."""

    series: SeriesConfig = SeriesConfig()
    slices: SliceConfig = SliceConfig()
    lung: LungConfig = LungConfig()
    fill: FillConfig = FillConfig()
    window: WindowConfig = WindowConfig()
    engine: EngineConfig = EngineConfig()
    run: RunConfig = RunConfig()


def read_config(path: Path | None) -> Config:
    """The configuration at `path`, or the defaults where there is none."""
    if path is None:
        return Config()
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error.strerror}") from error
    try:
        return msgspec.toml.decode(text, type=Config)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path}: {error}{_known_keys(str(error))}") from error


def to_toml(config: Config) -> str:
    """`config` in full, as TOML."""
    return msgspec.toml.encode(config).decode()


def results_digest(config: Config) -> str:
    """SHA-256 of everything that can change a result: all sections but [run]."""
    relevant = {name: value for name, value in msgspec.to_builtins(config).items() if name != "run"}
    return hashlib.sha256(msgspec.json.encode(relevant, order="deterministic")).hexdigest()


def differing_fields(old: Config, new: Config) -> list[str]:
    """Names ("fill.copies") of the results-relevant fields in which two configurations differ."""
    before, after = _flat(old), _flat(new)
    return [name for name in after if before[name] != after[name] and not name.startswith("run.")]


def _flat(config: Config) -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = msgspec.to_builtins(config)
    return {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}


def _known_keys(message: str) -> str:
    """The keys that would have been known where an unknown one stands."""
    if "unknown field" not in message:
        return ""
    section = message.rpartition("$")[2].strip(".`")
    default = getattr(Config(), section, Config())
    return f"; known here: {', '.join(default.__struct_fields__)}"
