"""A finished run from Python: the tables as pandas frames, results.h5 opened when first asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.errors import ConfigurationError
from pipeline.run.paths import EXCLUSIONS, PATIENTS, RESULTS, SLICES, STUDIES
from pipeline.run.run_toml import Network, read_described

if TYPE_CHECKING:
    from pipeline.run.find import Origin

TEXT: dict[str, Any] = {"study_key": object, "code": object, "reason": "string", "warnings": "string"}
"""Columns of text whatever they hold: one that is empty throughout would be read as numbers."""


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @cached_property
    def networks(self) -> list[Network]:
        """Whose columns the tables have. Raises ConfigurationError where those were written under other names."""
        networks = read_described(self.folder).networks
        with (self.folder / STUDIES).open(encoding="utf-8") as file:
            there = file.readline().strip().split(",")
        if not all(one.column in there for one in networks):
            raise ConfigurationError(
                f"the tables of {self.folder} were written under other names of its networks: drenet gather {self.folder}"
            )
        return networks

    @cached_property
    def studies(self) -> pd.DataFrame:
        """One row a study, in order of study_key."""
        return self._csv(STUDIES)

    @cached_property
    def patients(self) -> pd.DataFrame:
        """One row a patient: scores pooled over all scored slices."""
        return self._csv(PATIENTS)

    @cached_property
    def exclusions(self) -> pd.DataFrame:
        """What was left out or noted, with its reason."""
        return self._csv(EXCLUSIONS)

    @cached_property
    def slices(self) -> pd.DataFrame:
        """One row a scored slice."""
        return pd.read_parquet(self.folder / SLICES)

    def find(self, key: str) -> list[Origin]:
        """The archive's images behind a key of the tables, KEY/SLICE_INDEX, a UID or a path (run/find.py). They identify."""
        from pipeline.run.find import find

        return find(self.folder, key)

    def slices_of(self, study_keys: Collection[str]) -> Iterator[pd.DataFrame]:
        """Those rows of `slices` that belong to some studies, a few thousand at a time."""
        import pyarrow.parquet as pq

        wanted = set(study_keys)
        with pq.ParquetFile(self.folder / SLICES) as file:
            for group in range(file.num_row_groups):
                slices = file.read_row_group(group).to_pandas()
                yield slices[slices["study_key"].map(wanted.__contains__).astype(bool)]  # isin would hash all of them each time

    @cached_property
    def results(self) -> Any:
        """results.h5, opened for reading."""
        import h5py

        return h5py.File(self.folder / RESULTS, "r")

    def _csv(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / name, keep_default_na=True, dtype=TEXT)


def open_run(folder: str | Path) -> Run:
    """The run at `folder`. Raises ConfigurationError where it was not gathered yet."""
    run = Run(Path(folder))
    if not (run.folder / STUDIES).exists():
        raise ConfigurationError(f"{folder} has no tables yet: drenet gather {folder}")
    return run
