"""torch on one rank's device, set up for repeatable numbers."""

from __future__ import annotations

import torch

from pipeline.config import EngineConfig
from pipeline.errors import DeviceError
from pipeline.study.engine.choice import GPU, resolve_engine


def open_device(config: EngineConfig, local_rank: int) -> torch.device:
    """Set torch up for repeatable numbers; the device of this rank. Raises DeviceError."""
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
