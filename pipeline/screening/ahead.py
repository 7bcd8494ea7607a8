"""What a run will need soon, made ready in threads: to load and to compile mostly leaves Python's lock free.

Whatever goes wrong there goes wrong again for who needs it, and is told then.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from pipeline.config import Config
from pipeline.errors import DeviceError


def compile_judge(config: Config) -> None:
    """OpenVINO, and the judge of lungs, while root plans and indexes and the others wait for it."""
    if config.lung.recipe == "chest-wall" and config.lung.judge == "network":
        threading.Thread(target=_compile_judge).start()


def _compile_judge() -> None:
    with suppress(ImportError, DeviceError):
        from pipeline.study.lungs.network import network

        network()


class LoadedAhead:
    """What root's end of a run is made with (h5py, pandas, ...), while the first study is computed.

    It begins after the first slice: until then graphs are compiled, which is waited for.
    """

    def __init__(self) -> None:
        self._computing = False
        self._begun = False

    def begins(self, stage: str) -> None:
        """Told which stage begins."""
        self._computing = stage == "infer"

    def tick(self) -> None:
        """Told between slices."""
        if self._computing and not self._begun:
            self._begun = True
            threading.Thread(target=_load).start()


def _load() -> None:
    with suppress(ImportError):
        from pipeline.report.page import template

        template()
