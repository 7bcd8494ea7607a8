"""Which engine computes: decided once by root, provided by every rank, or refused with the cure.

An engine never falls back to another or to another precision: results would differ between machines, and nobody be told.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

from pipeline.config import EngineConfig
from pipeline.errors import DeviceError

GPU = ("cuda", "cudagraph")
"""The engines that need one."""
DRIVERS = ("libcuda.so.1", "nvcuda.dll")
"""NVIDIA's, one of which is there where its GPUs can be used."""
AMD = Path("/dev/kfd")
"""Where AMD's GPUs are asked for, which torch calls CUDA devices too."""
PROCESSOR = Path("/proc/cpuinfo")
INT8 = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Without one of these instruction sets sums of 8-bit products overflow, and the numbers would be others."""
INT8_HINT = (
    'precision = "int8" would be faster here (half of the time on the processor measured) for a checkpoint that '
    "`drenet quantise` has measured; boxes stay, probabilities move in the second digit at most (docs/performance.md)"
)


def resolve_engine(name: str) -> str:
    """`auto` -> cuda where this process sees a GPU, else openvino; root does it once for all ranks.

    What happens to be installed never chooses the numbers: where OpenVINO is missing, it is missing.
    """
    if name == "auto":
        name = "cuda" if may_have_gpu() and _sees_gpu() else "openvino"
    if name in GPU and not _sees_gpu():
        raise DeviceError(f"engine = {name}, but this rank sees no CUDA device: check --gpus-per-task, or choose torch")
    if name == "openvino" and find_spec("openvino") is None:
        raise DeviceError("engine = openvino, but it is not installed: pip install openvino, or choose torch")
    return name


def may_have_gpu() -> bool:
    """Whether there is a driver: where there is none torch need not be asked, which takes seconds to load."""
    return AMD.exists() or any(map(_is_library, DRIVERS))


def _is_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def check_int8(config: EngineConfig) -> None:
    """Raises DeviceError where int8 is asked for and would not be computed as it was measured."""
    if config.precision != "int8":
        return
    engine = resolve_engine(config.name)
    if engine != "openvino":
        raise DeviceError(f"precision = int8, but engine = {engine} does not compute it: choose openvino, or mixed or fp32")
    if not has_int8():
        raise DeviceError("precision = int8, but this processor has no instructions for it (VNNI): choose fp32")


def hint(config: EngineConfig) -> str:
    """One line on what another precision would gain here; empty where none would. Raises DeviceError."""
    if config.precision != "fp32":
        return ""
    engine = resolve_engine(config.name)
    if not has_bf16(engine):
        return INT8_HINT if engine == "openvino" and has_int8() else ""
    return (
        'precision = "mixed" would be faster here (three fifths of the time on the processor measured); boxes stay, '
        "probabilities move in the second digit at most (docs/performance.md)"
    )


def has_bf16(engine: str) -> bool:
    """Whether the hardware computes bf16 itself."""
    if engine in GPU:
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any("bf16" in name for name in instructions())


def has_int8() -> bool:
    """Whether the processor multiplies bytes and sums them up without overflow."""
    return not instructions().isdisjoint(INT8)


def instructions() -> frozenset[str]:
    """The processor's instruction sets as Linux calls them; none are known elsewhere."""
    try:
        lines = PROCESSOR.read_text().splitlines()
    except OSError:
        return frozenset()
    told = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(told, ()))
