"""What a training says after each epoch: which of how many, and how long the rest may take."""

from types import SimpleNamespace

from pipeline.training.fit import progress
from pipeline.training.recipe import Recipe

RECIPE = Recipe(trunk_epochs=4, epochs=24, patience=5)


def state(epoch, *, stopped=False):
    return SimpleNamespace(epoch=epoch, epochs=[[epoch, 1, 0.25, 0.9, 0.5]], stopped=stopped)


def test_an_epoch_is_told_of_how_many_with_the_time_left():
    said = progress(state(26), RECIPE, 0.9, 30.0)
    assert said == "epoch 26 of 28: loss 0.2500, validation AUC 0.900, validation loss 0.5000; at most about 60 s left"


def test_a_training_that_stopped_early_says_so_instead():
    assert progress(state(12, stopped=True), RECIPE, 0.9, 30.0).endswith("; stopped, no better for 5 epochs")
