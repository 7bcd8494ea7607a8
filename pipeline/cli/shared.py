"""What several commands share: an archive's options, a table of counts, the notice and the logs' form."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

NOTICE = "Research use only. Not a medical device."
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def add_archive(parser: argparse.ArgumentParser) -> None:
    """The archive, the run's folder, and how it is worked on."""
    parser.add_argument("archive", type=Path, help="the archive's top folder, or a CSV that lists pictures")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--ranks", type=int, default=1, help="start this many MPI ranks on this machine")
    parser.add_argument("--config", type=Path, help="TOML; see configs/")
    parser.add_argument("--key-file", type=Path, help="pseudonym key (default: $DRENET_KEY_FILE, ~/.config/drenet/)")


def table(by_status: dict[str, int], by_reason: dict[str, int]) -> str:
    """Studies by status and by reason."""
    lines = [f"{name:<34}{count:>9,}" for name, count in by_status.items()]
    lines += [f"  {name:<32}{count:>9,}" for name, count in by_reason.items()]
    return "\n".join(lines)


def log_to_file(path: Path) -> None:
    """Every rank keeps its own log in the run's folder, one line a study."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logging.getLogger().addHandler(handler)
