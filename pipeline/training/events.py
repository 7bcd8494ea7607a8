"""The course of a training run for TensorBoard: one event file, made anew of the whole state, so that a resume doubles nothing.

The file says neither host nor time, which TensorBoard's own names do: the same training gives the same bytes.
"""

from __future__ import annotations

import io
from pathlib import Path

from pipeline.errors import ConfigurationError
from pipeline.files import write_whole
from pipeline.training.curves import Curve, term_curves, validation_curves
from pipeline.training.state import State

EVENTS = "tensorboard"
FILE = "events.out.tfevents.drenet"


def check_tensorboard() -> None:
    """Raises ConfigurationError where the extra is missing."""
    try:
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except ImportError as error:
        raise ConfigurationError("--tensorboard needs: pip install 'drenet-pipeline[tensorboard]'") from error


def write_events(folder: Path, state: State) -> None:
    """`loss/TERM`, `validation/auc` and `validation/loss` so far, by step; replaces the file that is there."""
    curves = {f"loss/{name}": curve for name, curve in term_curves(state).items()}
    curves |= {f"validation/{name}": curve for name, curve in validation_curves(state).items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, _bytes(curves))


def _bytes(curves: dict[str, Curve]) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(file_version="brain.Event:2").SerializeToString())
    for tag, curve in curves.items():
        for step, value in zip(curve.step, curve.value, strict=True):
            shown = Summary(value=[Summary.Value(tag=tag, simple_value=float(value))])
            writer.write(Event(step=int(step), summary=shown).SerializeToString())
    return buffer.getvalue()
