"""Slices -> predictions: one engine a rank, the same numbers whoever computes them."""

from pipeline.infer.device import local_rank, resolve_engine
from pipeline.infer.engine import Engine

__all__ = ["Engine", "local_rank", "resolve_engine"]
