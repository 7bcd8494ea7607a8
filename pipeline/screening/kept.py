"""What is kept between runs by a process that screens again and again: networks that are loaded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import Config
from pipeline.run.beforehand import check_weights
from pipeline.run.plan import described, loaded, resolved
from pipeline.run.run_toml import Network
from pipeline.run.weights import Weights, weights_of
from pipeline.screening.ahead import compile_judge

if TYPE_CHECKING:
    from pipeline.study.engine import Engine


@dataclass(frozen=True, slots=True)
class Kept:
    """What a process that screens again and again keeps: the networks, and who is told which stage begins."""

    networks: list[Network]
    engine: Engine
    begins: Callable[[str], None] = lambda _: None


def keep(
    weights: Sequence[str | Path | Weights], config: Config, begins: Callable[[str], None] = lambda _: None
) -> Kept:  # fmt: skip
    """Load networks once, for many runs with this `config`. Raises PipelineError."""
    from pipeline.study.engine import Engine

    asked = [weights_of(one) for one in weights]
    for one in asked:
        check_weights(one.path)
    compile_judge(config)
    networks = loaded(asked)
    return Kept(described(asked, networks), Engine(networks, resolved(config).engine), begins)
