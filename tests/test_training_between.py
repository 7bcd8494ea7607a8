"""What the whole network begins with when the trunk epochs are done, and which of them see slices of full size."""

import numpy as np
import pytest
import torch

from pipeline.cohort.cache import CachedSlice
from pipeline.errors import ConfigurationError
from pipeline.study.drenet import DreNet
from pipeline.training import trunk
from pipeline.training.batches import Sample
from pipeline.training.between import let_looks_answer
from pipeline.training.losses import trunk_loss
from pipeline.training.recipe import Recipe, read_recipe
from pipeline.training.trunk import trunk_batch

RECIPE = Recipe(trunk_epochs=3, trunk_full_size=1, epochs=2)


@torch.no_grad()
def test_the_last_layer_begins_with_the_mean_of_what_the_looks_say_by_themselves():
    torch.manual_seed(0)
    network = DreNet(1 / 16).eval()
    let_looks_answer(network)
    said = network(torch.randn(2, 3, 448, 448), torch.randn(2, 3, 600, 600))
    second_NF = said.looks[:, -network.pretrained_model.n_features :]
    mean = (said.part_logits.mean(dim=1) + said.raw_logits + network.partcls_net(second_NF)) / 3
    assert torch.allclose(said.concat_logits, mean, atol=1e-5)


def test_only_the_last_trunk_epochs_see_slices_of_full_size(monkeypatch):
    grey = np.random.default_rng(0).integers(0, 256, (448, 448), np.uint8)
    monkeypatch.setattr(trunk, "read_slice", lambda *_: CachedSlice(grey, grey, np.ones((448, 448), bool)))
    samples = [Sample(None, 0, 1), Sample(None, 1, 0)]
    sides = [trunk_batch(None, samples, [0, 1], RECIPE, epoch).image.shape[-1] for epoch in range(3)]
    assert sides == [224, 224, 448]
    losses = trunk_loss(DreNet(1 / 16), trunk_batch(None, samples, [0, 1], RECIPE, 2).to(torch.device("cpu")))
    assert [bool(loss > 0) for loss in losses] == [True, False, True, False]


def test_more_full_size_epochs_than_trunk_epochs_are_refused(tmp_path):
    (tmp_path / "recipe.toml").write_text("trunk_epochs = 1\ntrunk_full_size = 2\n")
    with pytest.raises(ConfigurationError, match="trunk_full_size"):
        read_recipe(tmp_path / "recipe.toml")
