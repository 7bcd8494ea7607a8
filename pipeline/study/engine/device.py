"""Which engine computes, on which device: decided once by root, provided by every rank, or refused with the cure.

An engine never falls back to another or to another precision: results would differ between machines, and nobody be told.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from pipeline.config import EngineConfig
from pipeline.errors import DeviceError

GPU = ("cuda", "cudagraph")
"""The engines that need one."""
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
        name = "cuda" if torch.cuda.is_available() else "openvino"
    if name in GPU and not torch.cuda.is_available():
        raise DeviceError(f"engine = {name}, but this rank sees no CUDA device: check --gpus-per-task, or choose torch")
    if name == "openvino" and find_spec("openvino") is None:
        raise DeviceError("engine = openvino, but it is not installed: pip install openvino, or choose torch")
    return name


def open_device(config: EngineConfig, local_rank: int) -> torch.device:
    """Set torch up for repeatable numbers; the device of this rank. Raises DeviceError."""
    check_int8(config)
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # denormal numbers run a hundred times slower
    if resolve_engine(config.name) not in GPU:
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = False  # autotuning would let the machine's mood choose the numbers
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    torch.backends.cuda.matmul.allow_tf32 = False
    if config.precision != "fp32" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise DeviceError(f"precision = {config.precision}, but this GPU has no bf16: choose fp32, or a newer GPU")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


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
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)


def has_int8() -> bool:
    """Whether the processor multiplies bytes and sums them up without overflow."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in INT8)
