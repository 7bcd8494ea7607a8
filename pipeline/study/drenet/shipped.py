"""The slim networks that come with the package, trained on synthetic patients: they prove the machinery, nothing clinical."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "weights"


def shipped_weights() -> dict[str, Path]:
    """The checkpoint of every task that has one; docs/model-cards.md says what they are worth."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}
