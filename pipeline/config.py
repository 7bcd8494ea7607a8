"""TOML -> one frozen configuration, read once by root; every default is the paper's or says why not.

Unknown keys are errors that name the known ones. A stage receives its own section only.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Literal

import msgspec

from pipeline.errors import ConfigurationError

HOW_NOT_WHAT = frozenset({"run", "cluster"})
"""Sections that say how a run is carried out: no result depends on them."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: frozen, and strict about unknown keys."""


TEXT, NUMBER, TRUTH = ("is", "contains"), ("is", "at_least", "at_most"), ("is",)


class Rule(Section, frozen=True):
    """One wish about a series: what is compared with what. Text is compared without regard to case."""

    field: Literal["description", "kernel", "manufacturer", "thickness_mm", "contrast"]
    operator: Literal["is", "contains", "at_least", "at_most"]
    value: str | float | bool

    def __post_init__(self) -> None:
        """Raises ValueError where field, operator and value do not go together."""
        kind, operators = {"thickness_mm": (float, NUMBER), "contrast": (bool, TRUTH)}.get(self.field, (str, TEXT))
        if type(self.value) is not kind and not (kind is float and type(self.value) is int):
            what = {str: "text", float: "a number", bool: "true or false"}[kind]
            raise ValueError(f"the value of a rule about {self.field} is {what}")
        if isinstance(self.value, float) and not math.isfinite(self.value):
            raise ValueError(f"the value of a rule about {self.field} is a number")
        if self.operator not in operators:
            raise ValueError(f"a rule about {self.field} knows the operators {', '.join(operators)}")
        if kind is str and not str(self.value).strip():
            raise ValueError(f"a rule about {self.field} needs a text")


MAX_RULES = 8


class SeriesConfig(Section, frozen=True):
    """Which series of a study is chosen."""

    min_slices: int = 20  # distinct positions
    min_extent_mm: float = 120.0
    max_spacing_mm: float = 10.0
    kernels: Literal["lung", "soft", "any"] = "lung"  # must match what the network was trained on
    prefer: tuple[Rule, ...] = ()  # before all other criteria; the first rule weighs most
    forbid: tuple[Rule, ...] = ()  # a series that meets one of these is never chosen
    min_pictures: int = 5  # exported JPEG or PNG slices in a folder
    picture_low_hu: float | Literal["own"] = "own"  # what black stands for in them: own: each picture's greys tell;
    picture_high_hu: float | Literal["own"] = "own"  # and white; the published code's are -1000 and -235

    def __post_init__(self) -> None:
        """Raises ValueError for one end of a window without the other, or more rules than a rank can hold."""
        low, high = self.picture_low_hu, self.picture_high_hu
        is_window = not isinstance(low, str) and not isinstance(high, str) and low < high
        if not is_window and (low, high) != ("own", "own"):
            raise ValueError("picture_low_hu and picture_high_hu: name both, the lower first, or neither")
        if max(len(self.prefer), len(self.forbid)) > MAX_RULES:
            raise ValueError(f"at most {MAX_RULES} rules in prefer, and in forbid")


class SliceConfig(Section, frozen=True):
    """Which slices of the series are prepared."""

    count: int = 15
    first: float = 0.0  # fractions of the series' z range
    last: float = 1.0
    keep_fraction: float = 0.40  # kept when its lung area is at least this share of the study's largest
    min_kept: int = 1
    within: Literal["series", "lung"] = "lung"  # lung: chosen again within it where few show any; series: the paper's words


class LungConfig(Section, frozen=True):
    """How the lung is found."""

    recipe: Literal["chest-wall", "published"] = "chest-wall"
    judge: Literal["network", "none"] = "network"  # organs out, diseased lung in (docs/lung.md)
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

    name: Literal["auto", "torch", "cuda", "cudagraph", "openvino"] = "auto"  # auto: cuda where there is a GPU, else openvino
    precision: Literal["fp32", "mixed", "bf16", "int8"] = "fp32"  # mixed, int8: details are chosen in fp32
    threads: int = 1  # per rank, for torch, OpenCV and BLAS; never derived from the number of ranks


class RunConfig(Section, frozen=True):
    """How a run is carried out; none of it changes a result."""

    fsync_every_s: float = 0.0
    max_attempts: int = 3
    max_internal_errors: int = 20  # or 1 % of the finished studies, whichever is more
    root_computes_up_to: int = 32  # ranks; above that root only deals
    abandon_after_s: float = 60.0  # asked to stop, a rank finishes its study within this time or leaves it to the next start
    join_s: float = 300.0  # ranks that have not all met within this time end, to be started again
    stall_s: float = 1800.0  # a run in which nothing has moved for so long ends likewise; a sound one is never so silent
    decode_cpu_s: float = 30.0  # CPU seconds a compressed frame may take
    progress_every_s: float = 30.0
    images_top: int = 20  # studies whose pictures are kept, the highest scores of a rank; 0: none of any study
    images_flag_at: float = 0.5  # from this score on a study's pictures are kept too,
    images_mb: float = 64.0  # until a rank's pack has grown to this


class ClusterConfig(Section, frozen=True):
    """What to ask of Slurm, and how ranks are started there; none of it changes a result. Empty or 0: not asked for."""

    flavour: Literal["slurm", "tianhe"] = "slurm"  # tianhe: yhbatch, yhrun, yhcontrol
    partition: str = ""
    account: str = ""
    qos: str = ""
    nodes: int = 1
    ranks_per_node: int = 1  # with GPUs one a GPU is right
    cpus_per_rank: int = 1
    gpus_per_node: int = 0
    memory_gb_per_node: int = 0
    walltime_min: int = 60
    drain_s: int = 120  # the job is told to stop so long before its end; at least the longest study
    launcher: Literal["srun", "mpiexec", "mpirun"] = "srun"
    pmi: str = "pmi2"  # for srun: pmi2 (MPICH), pmix (Open MPI)
    launcher_options: tuple[str, ...] = ()  # more options for the launcher
    modules: tuple[str, ...] = ()  # of the site: its MPI is the right one for several nodes
    setup: tuple[str, ...] = ()  # shell lines before the ranks start, such as activating a virtual environment
    command: tuple[str, ...] = ("drenet",)  # or: apptainer exec --nv drenet.sif drenet
    options: tuple[str, ...] = ()  # more options for sbatch, such as --exclusive
    scratch: str = ""  # node-local folder for temporary files
    relaunches: int = 3  # times that ranks are started again within one allocation
    requeues: int = 100  # times that a job stopped before its end is queued again; 0: never
    parts: int = 1  # more than one: a job array, each task with a fixed part of the studies
    legs: int = 1  # more than one: so many jobs, each after the one before, instead of requeueing


class Config(Section, frozen=True):
    """The whole configuration of a run."""

    series: SeriesConfig = SeriesConfig()
    slices: SliceConfig = SliceConfig()
    lung: LungConfig = LungConfig()
    fill: FillConfig = FillConfig()
    window: WindowConfig = WindowConfig()
    engine: EngineConfig = EngineConfig()
    run: RunConfig = RunConfig()
    cluster: ClusterConfig = ClusterConfig()


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
    """SHA-256 of everything that can change a result: all sections but [run] and [cluster]."""
    relevant = {name: value for name, value in msgspec.to_builtins(config).items() if name not in HOW_NOT_WHAT}
    return hashlib.sha256(msgspec.json.encode(relevant, order="deterministic")).hexdigest()


def differing_fields(old: Config, new: Config) -> list[str]:
    """Names ("fill.copies") of the results-relevant fields in which two configurations differ."""
    before, after = _flat(old), _flat(new)
    return [name for name in after if before[name] != after[name] and name.partition(".")[0] not in HOW_NOT_WHAT]


def _flat(config: Config) -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = msgspec.to_builtins(config)
    return {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}


def _known_keys(message: str) -> str:
    """The keys that would have been known where an unknown one stands."""
    if "unknown field" not in message:
        return ""
    section = message.rpartition("$")[2].strip(".`")
    known: type[Section] | Section = Rule if section.startswith(("series.prefer", "series.forbid")) else Config()
    return f"; known here: {', '.join(getattr(known, section, known).__struct_fields__)}"
