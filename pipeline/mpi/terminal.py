"""Whether somebody looks on at a terminal, and how wide that is: ranks under a launcher cannot see it, and are told.

No colours are used anywhere, so that NO_COLOR has nothing to switch off.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TypedDict

BAR = "DRENET_BAR"
"""The environment's word on progress bars: their width in characters, 0 for none."""


class BarOptions(TypedDict):
    """What tqdm is told of its place."""

    disable: bool
    ncols: int | None


def bar_options() -> BarOptions:
    """For a bar on standard error; none where nobody looks on, or asked for quiet."""
    said = os.environ.get(BAR, "")
    if not said.isdecimal():
        return {"disable": not sys.stderr.isatty(), "ncols": None}
    return {"disable": said == "0", "ncols": int(said) or None}


def for_ranks() -> dict[str, str]:
    """What ranks that a launcher starts for this process are told."""
    if BAR in os.environ:
        return {}
    return {BAR: str(shutil.get_terminal_size().columns if sys.stderr.isatty() else 0)}


def be_quiet() -> None:
    """No bars from now on, here and in ranks that are started."""
    os.environ[BAR] = "0"
