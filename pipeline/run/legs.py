"""Legs of a run that finish nothing: after two in a row, each long enough for the slowest study, going on is in vain.

A leg is one start that was asked to stop, or came near the end of its walltime; its job is then queued again. What such a leg
leaves is one line in the run's private folder: how much had been recorded before. A leg that was too short says nothing.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import write_whole
from pipeline.run.journal import LastRecord
from pipeline.run.paths import IDLE_LEG, PRIVATE


def end_leg(home: Path, done: dict[str, LastRecord], lasted_s: float, *, enough_s: float, moved: bool) -> None:
    """Root's last look at a leg that is to be gone on with; `done` is what was recorded before it. Raises PipelineError.

    `enough_s` is the time within which a leg should have finished a study; `moved` says whether it did.
    """
    mark = home / PRIVATE / IDLE_LEG
    if moved:
        mark.unlink(missing_ok=True)
        return
    slowest_s = max((record.seconds for record in done.values()), default=0.0)
    if lasted_s < max(slowest_s, enough_s):
        return
    # what was settled by indexing took no time and no try
    n_records = sum((record.seconds > 0) + record.tries for record in done.values() if record.path.is_relative_to(home))
    said = f"{n_records}\n".encode()
    if not mark.exists() or mark.read_bytes() != said:
        write_whole(mark, said, mode=0o600)
        return
    mark.unlink()
    raise PipelineError(
        f"two legs in a row finished no study, though the last had {lasted_s:,.0f} s and the slowest study so far took "
        f"{slowest_s:,.0f} s: it is not queued again. Ask for a longer walltime, and see logs/; started by hand it goes on"
    )
