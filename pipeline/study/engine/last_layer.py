"""DRE-Net's linear layers over the features of its looks, by numpy.

Sums are numpy's own and in 64 bits: a matrix product would be a library's, on as many threads as it likes.

Shapes: N slices, L = K + 2 looks, F features of a look, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.study.anchors import N_DETAILS
from pipeline.study.checkpoint import Checkpoint
from pipeline.study.engine.rows import Floats

Doubles = npt.NDArray[np.float64]


def linear(features_NF: Floats, weight_CF: Floats, bias_C: Floats) -> Doubles:
    """[N, C]."""
    return np.asarray((features_NF[:, None].astype(np.float64) * weight_CF).sum(axis=2) + bias_C)


def softmax(logits_NC: Doubles) -> Doubles:
    """Of the last axis."""
    powers = np.exp(logits_NC - logits_NC.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


@dataclass(frozen=True, slots=True)
class LastLayer:
    """`weight` [C, L F] and `bias` [C] of the layer that says what the looks come to, and the class that is asked about."""

    weight: Floats
    bias: Floats
    positive: int

    @staticmethod
    def of(checkpoint: Checkpoint) -> LastLayer:
        """Of a network."""
        state = checkpoint.state
        return LastLayer(state["concat_net.weight"], state["concat_net.bias"], checkpoint.metadata.positive)

    def probability(self, looks_NF: Floats) -> Doubles:
        """[N], looks [N, L F]."""
        return np.asarray(softmax(linear(looks_NF, self.weight, self.bias))[:, self.positive])

    def without_each(self, looks_NF: Floats) -> Doubles:
        """[N, L]: the probability with the features of one look at 0."""
        looks_NLF = looks_NF.reshape(len(looks_NF), N_DETAILS + 2, -1)
        weight_CLF = self.weight.reshape(len(self.weight), N_DETAILS + 2, -1)
        share_NLC = (looks_NLF[:, :, None].astype(np.float64) * weight_CLF.swapaxes(0, 1)).sum(axis=3)
        logits_NLC = share_NLC.sum(axis=1, keepdims=True) + self.bias - share_NLC
        return np.asarray(softmax(logits_NLC)[:, :, self.positive])
