"""What a run was made with, as its run.toml says it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigurationError


def read_description(folder: Path) -> dict[str, Any]:
    """run.toml of the run at `folder`: versions, digests, networks, complete configuration."""
    try:
        return tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{folder} is no run's folder: run.toml is missing or damaged") from error
