"""What a figure belongs to: the machine, how busy it was, the code and the versions of what it stands on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
LIBRARIES = ("torch", "openvino", "opencv-python-headless", "pydicom", "numpy")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def described() -> dict[str, Any]:
    """The machine as the system tells of it, the commit, and when."""
    told = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in told)}
    return {
        "processor": f"{fields.get('model name', platform.machine())}, family {fields.get('cpu family', '?')}",
        "instructions": [name for name in INSTRUCTIONS if name in fields.get("flags", "").split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        "load_before": os.getloadavg()[0],
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }


def _commit() -> str:
    """The commit that was measured; with a plus where files differ from it."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout.strip()
