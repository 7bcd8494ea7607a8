"""The course of a training: which curves there are, what they say of the jump; older runs are shown and gone on with too."""

import math
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigurationError
from pipeline.mpi.world import Alone
from pipeline.study.drenet import formula_network
from pipeline.training import curves
from pipeline.training.events import FILE, check_tensorboard, write_events
from pipeline.training.fit import JUMP, Trainer, cross_entropy_of
from pipeline.training.losses import ALL_ALIKE, PARTS, TEACHES, ranking_loss
from pipeline.training.optimiser import Optimiser
from pipeline.training.recipe import Recipe
from pipeline.training.state import LAST, State, read_state

TRUNK = [[0.0, float(n), 0.7, 0.0, 0.6, 0.0] for n in range(4)]
FULL = [[1.0, float(n), 0.5, 0.8, 0.6, 15.0] for n in range(4)]


def state(epochs=((1, 4, 1.3, 0.2, 0.69), (2, 4, 16.9, 0.9, 0.4)), steps=(*TRUNK, *FULL)):
    return State(epoch=2, steps=[list(row) for row in steps], epochs=[list(map(float, row)) for row in epochs])


def drawn(of, tmp_path, monkeypatch):
    """The axes of the picture that is drawn."""
    from matplotlib.figure import Figure

    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: kept.append(self) or file.write(b"PNG"))
    curves.draw_curves(tmp_path / "curves.png", of)
    return kept[0].axes


def test_an_area_below_chance_is_within_the_picture(tmp_path, monkeypatch):
    *_, areas = drawn(state(), tmp_path, monkeypatch)
    low, high = areas.get_ylim()
    assert low < 0
    assert high > 1
    assert areas.lines[0].get_ydata().tolist() == [0.2, 0.9]


def test_every_term_is_told_by_what_it_teaches_and_the_jump_is_marked(tmp_path, monkeypatch):
    terms, losses, areas = drawn(state(), tmp_path, monkeypatch)
    assert set(TEACHES) == set(PARTS)
    *told, marked = [text.get_text() for text in terms.get_legend().get_texts()]
    assert told == [f"{name}: {TEACHES[name]}" for name in PARTS]
    assert "the sum jumps" in marked
    assert {axes.lines[-1].get_xdata()[0] for axes in (terms, losses, areas)} == {4}
    assert {line.get_label() for line in losses.lines} >= {"training slices", "validation patients"}


def test_a_term_that_is_not_in_use_yet_is_no_line(tmp_path, monkeypatch):
    terms, *_ = drawn(state(), tmp_path, monkeypatch)
    (rank,) = [line for line in terms.lines if line.get_label().startswith("rank")]
    assert np.isnan(rank.get_ydata()[:4]).all()
    assert rank.get_ydata()[4:].tolist() == [15] * 4


def test_a_run_without_trunk_epochs_has_no_jump():
    assert curves.jump(state(steps=FULL)) is None
    assert curves.jump(state(steps=TRUNK)) is None
    assert curves.jump(state(steps=[])) is None


def test_training_and_validation_loss_are_of_the_same_answer():
    trained = curves.trained_curve(state())
    assert trained.value == pytest.approx([0.7, 0.8])  # of the trunk epochs raw, then concat
    assert trained.step.tolist() == curves.validation_curves(state())["loss"].step.tolist() == [3, 7]


def test_many_steps_are_shown_by_their_means():
    steps = [[0.0, float(n), float(n), 0.0, 0.0, 0.0] for n in range(2501)]
    curve = curves.term_curves(state(steps=steps))["raw"]
    assert len(curve.step) <= curves.MOST
    assert curve.value[:2].tolist() == [1.0, 4.0]
    assert curve.step[-1] == 2500
    assert np.average(curve.value, weights=np.diff(np.append(-1, curve.step))) == pytest.approx(1250)


def old_run(folder, network, optimiser):
    """What a version before the validation loss left."""
    was = asdict(state(epochs=[(1, 4, 1.3, 0.2)], steps=TRUNK))
    torch.save({"network": network.state_dict(), "optimiser": optimiser.state_dict(), "state": was}, folder / LAST)


def test_a_run_of_an_older_version_is_gone_on_with_and_drawn(tmp_path):
    network = formula_network(1 / 16)
    optimiser = Optimiser(network, Recipe(), 4)
    old_run(tmp_path, network, optimiser)
    found = read_state(Alone(), tmp_path, network, optimiser)
    assert math.isnan(found.epochs[0][4])
    found.epochs.append([2.0, 4.0, 16.9, 0.9, 0.4])
    found.steps += FULL
    assert curves.validation_curves(found)["loss"].value.tolist() == [0.4]
    curves.draw_curves(tmp_path / "curves.png", found)
    write_events(tmp_path / "events", found)
    assert (tmp_path / "events" / FILE).exists()


def test_the_loss_of_slices_is_their_mean_cross_entropy_and_finite():
    assert cross_entropy_of(np.array([1.0, 0.5])) == pytest.approx(math.log(2) / 2)
    assert 100 < cross_entropy_of(np.array([0.0])) < 1000


def test_the_line_that_explains_the_jump_tells_the_ranking_term_s_true_size():
    score = torch.zeros(3, 6)
    loss = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    assert float(ranking_loss(score, loss)) == ALL_ALIKE
    assert f"rank alone is {ALL_ALIKE:.0f} " in JUMP


def test_details_are_ranked_in_the_slices_that_are_asked_for_only():
    generator = torch.Generator().manual_seed(0)
    score = torch.rand(4, 6, generator=generator, requires_grad=True)
    loss = torch.rand(4, 6, generator=generator)
    ranked = torch.tensor([True, False, False, True])
    asked = ranking_loss(score, loss, ranked)
    assert asked.item() == pytest.approx(float(ranking_loss(score[[0, 3]].detach(), loss[[0, 3]])))
    asked.backward()
    grad = score.grad
    assert grad is not None
    assert grad[ranked].any()
    assert not grad[~ranked].any()
    assert ranking_loss(score, loss, torch.zeros(4, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize(
    ("recipe", "epochs"),
    [(Recipe(trunk_epochs=2, epochs=3), [2]), (Recipe(epochs=3), []), (Recipe(model="vgg16", trunk_epochs=2), [])],
)
def test_the_jump_is_told_with_the_first_epoch_of_the_details(recipe, epochs):
    trainer = Trainer.__new__(Trainer)
    trainer.recipe = recipe
    trainer.network = formula_network(1 / 16) if recipe.model == "drenet" else None
    assert [epoch for epoch in range(5) if trainer.jumps_at(epoch)] == epochs


def test_event_files_hold_the_curves_and_are_the_same_each_time(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_events(tmp_path, state())
    first = (tmp_path / FILE).read_bytes()
    write_events(tmp_path, state())
    assert (tmp_path / FILE).read_bytes() == first
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert set(read.Tags()["scalars"]) == {*(f"loss/{name}" for name in PARTS), "validation/auc", "validation/loss"}
    assert [(one.step, round(one.value, 6)) for one in read.Scalars("validation/auc")] == [(3, 0.2), (7, 0.9)]
    assert [one.value for one in read.Scalars("loss/rank")] == [0, 0, 0, 0, 15, 15, 15, 15]


def test_without_the_extra_only_the_option_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    with pytest.raises(ConfigurationError, match=r"drenet-pipeline\[tensorboard\]"):
        check_tensorboard()


def test_training_itself_loads_no_tensorboard():
    code = "import sys, pipeline.training.run, pipeline.training.curves; sys.exit('tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
