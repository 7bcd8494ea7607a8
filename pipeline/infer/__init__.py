"""Slices -> predictions: one engine a rank, the same numbers whoever computes them."""

from pipeline.infer.device import resolve_engine
from pipeline.infer.engine import Engine

__all__ = ["Engine", "resolve_engine"]
