"""The slim networks that come with the package, trained on synthetic patients: they prove the machinery, nothing clinical."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "weights"

CURRENT = frozenset(
    {
        "9be6dcc3a3765264ed03ea8469d9a6d3ec348c46480500f128951d6099027357",
        "51f84bf329aa276d12ac27f20d60d6e576a25607feca68610bc3c22ad7415e47",
    }
)
"""SHA-256 of every checkpoint that comes with the package."""
EARLIER = frozenset(
    {
        "a418ee0a5f4707d584235c18c245847b7f4af8105fa8297fb7be9d00c5852265",
        "713cb52722bdd47a17ee5591d83c3b1fd4ee5ee52f1300da6a9ef88e04fc583d",
        "d843b52c703c8b33db2361297cd6e68c61287587c48c0f0e61bcfdbccf2fc87f",
    }
)
"""Of those that came with it before, trained through earlier lung masks."""
DIGESTS = CURRENT | EARLIER
"""By which they are known wherever they lie."""


def shipped_weights() -> dict[str, Path]:
    """The checkpoint of every task that has one; docs/model-cards.md says what they are worth."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}
