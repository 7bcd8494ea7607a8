"""The slim networks that come with the package, trained on synthetic patients: they prove the machinery, nothing clinical."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "weights"

DIGESTS = frozenset(
    {
        "713cb52722bdd47a17ee5591d83c3b1fd4ee5ee52f1300da6a9ef88e04fc583d",
        "d843b52c703c8b33db2361297cd6e68c61287587c48c0f0e61bcfdbccf2fc87f",
    }
)
"""SHA-256 of every checkpoint that comes with the package, by which it is known wherever it lies."""


def shipped_weights() -> dict[str, Path]:
    """The checkpoint of every task that has one; docs/model-cards.md says what they are worth."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}
