"""DRE-Net: the networks and their checkpoints."""

from pipeline.model.baselines import Baseline
from pipeline.model.checkpoint import load_baseline, load_checkpoint, load_checkpoint_bytes, save_checkpoint
from pipeline.model.drenet import DreNet, DreNetOutput, Metadata
from pipeline.model.formula import formula_network

__all__ = [
    "Baseline",
    "DreNet",
    "DreNetOutput",
    "Metadata",
    "formula_network",
    "load_baseline",
    "load_checkpoint",
    "load_checkpoint_bytes",
    "save_checkpoint",
]
