"""DRE-Net's parts keep what drenet.md says of them, and its checkpoints are read or refused with a cure."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from pipeline.errors import ConfigurationError
from pipeline.study.anchors import LARGE_LEVELS, SMALL_LEVELS, anchors, overlapping
from pipeline.study.checkpoint import drenet_layout
from pipeline.study.drenet import DreNet, formula_network, load_checkpoint, load_checkpoint_bytes, save_checkpoint
from pipeline.study.drenet.checkpoint import checkpoint_bytes, load_start
from pipeline.study.drenet.network import cut, hard_nms, second_look

WIDTH = 1 / 16


@pytest.fixture(scope="module")
def network():
    return formula_network(WIDTH)


@pytest.fixture(scope="module")
def pictures():
    draw = torch.Generator().manual_seed(3)
    return torch.randn(2, 3, 448, 448, generator=draw), torch.randn(2, 3, 600, 600, generator=draw)


@pytest.fixture
def published(network):
    """The slim network's state under the published names."""
    return {key: value for key, value in network.state_dict().items() if not key.startswith("attention")}


def _saved(path, content, **options):
    torch.save(content, path, **options)
    return path


# The network


def test_anchors_are_squares_numbered_row_by_row_level_by_level():
    small, large = anchors(SMALL_LEVELS).tolist(), anchors(LARGE_LEVELS).tolist()
    assert (len(small), len(large)) == (245, 16)
    assert small[0] == [-8, -8, 40, 40]
    assert small[1] == [-8, 24, 40, 72]  # one to the right
    assert small[14] == [24, -8, 72, 40]  # one down
    assert small[196] == [-16, -16, 80, 80]
    assert large[15] == [352, 352, 544, 544]


@pytest.mark.parametrize(
    ("score", "want"),
    [
        (lambda: torch.zeros(245), [0, 2, 4]),
        (lambda: torch.full((245,), float("-inf")), [0, 2, 4]),
        (lambda: torch.full((245,), float("-inf")).index_fill(0, torch.tensor([30]), 0.0), [30, 0, 2]),
        (lambda: torch.linspace(1.0, 1.001, 245).bfloat16(), None),
        (lambda: torch.randn(245, generator=torch.Generator().manual_seed(1)).round(), None),
    ],
    ids=["all equal", "all -inf", "one above -inf", "bf16", "rounded"],
)
def test_of_equal_scores_the_lower_index_is_chosen(score, want):
    overlaps = torch.from_numpy(overlapping(anchors(SMALL_LEVELS)))
    score_A = score()
    if want is None:
        want, values = [], score_A.float().tolist()
        for index in sorted(range(245), key=lambda i: (-values[i], i)):
            if len(want) < 3 and not any(overlaps[index, chosen] for chosen in want):
                want.append(index)
    assert hard_nms(score_A[None], overlaps, 3, torch.ones(1, 245, dtype=torch.bool)).tolist() == [want]


def test_anchors_in_lung_come_first_and_others_fill_up_what_they_leave():
    overlaps, score_A = torch.from_numpy(overlapping(anchors(SMALL_LEVELS))), torch.arange(245.0)
    first_A = torch.zeros(245, dtype=torch.bool)
    first_A[[0, 1, 30]] = True  # 0 and 1 overlap
    assert hard_nms(score_A[None], overlaps, 3, first_A[None]).tolist() == [[30, 1, 244]]


def test_only_a_network_trained_to_looks_for_its_details_in_the_lung(pictures):
    network, (image, zoom) = formula_network(WIDTH), pictures
    in_lung = torch.zeros(len(image), 261, dtype=torch.bool)
    in_lung[:, [100, 102, 130, 250, 252, 258]] = True
    plain = network(image, zoom).detail_index
    assert torch.equal(network(image, zoom, in_lung=in_lung).detail_index, plain)
    network.metadata = replace(network.metadata, details="lung")
    assert torch.equal(network(image, zoom).detail_index, plain)
    chosen = network(image, zoom, in_lung=in_lung).detail_index
    assert sorted(chosen[0].tolist()) == [5, 7, 13, 100, 102, 130]


def test_a_box_one_column_over_is_dropped_and_a_diagonal_one_is_kept():
    overlaps = overlapping(anchors(SMALL_LEVELS))
    assert overlaps[0, 1]  # IoU 0.2
    assert not overlaps[0, 15]  # IoU 0.06
    assert overlaps[0, 196]  # small within middle, one NMS over both: IoU 0.25


def test_details_over_the_edge_show_the_mean_and_not_black(network):
    seen = []
    network.pretrained_model.conv1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    black = torch.full((1, 3, 448, 448), -2.0)
    try:
        network(black, torch.full((1, 3, 600, 600), -2.0), torch.tensor([[0, 2, 4, 0, 2, 8]]))
    finally:
        network.pretrained_model.conv1._forward_pre_hooks.clear()
    corner = seen[1][0]  # anchor 0 begins 8 pixels above and left of the picture
    assert corner[:, 0, 0].tolist() == [0.0, 0.0, 0.0]
    assert corner[:, -1, -1].tolist() == [-2.0, -2.0, -2.0]


def test_the_second_look_clamps_scales_and_truncates():
    rows = torch.arange(600.0).view(1, 1, 600, 1).expand(1, 3, 600, 600)
    shown = second_look(rows, torch.tensor([[-32, 96, 160, 288]]))
    assert shown[0, 0, 0, 0] == 0  # -32 is clamped
    assert shown[0, 0, -1, 0] == 213  # 160 * 600 / 448 = 214.28; the last row of 0..214 is 213


def test_corners_are_aligned_when_a_detail_is_resized():
    ramp = torch.arange(48.0).view(1, 1, 1, 48).expand(1, 1, 48, 48)
    torch.testing.assert_close(cut(ramp, [0, 0, 48, 48], 224)[0, 0, 0], torch.linspace(0, 47, 224))


def test_dropout_is_off_and_every_call_gives_the_same_numbers(network, pictures):
    with torch.inference_mode():
        first, second = network(*pictures), network(*pictures)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_in_training_dropout_is_on_and_every_part_learns(pictures):
    network = formula_network(WIDTH).train()
    output = network(pictures[0], pictures[1])
    loss = sum(value.sum() for value in (output.raw_logits, output.concat_logits, output.part_logits, output.detail_score))
    loss.backward()
    assert all(value.grad is not None for value in network.parameters())
    assert not torch.equal(output.concat_logits, network(*pictures).concat_logits)


def test_proposals_do_not_train_the_trunk(pictures):
    network = formula_network(WIDTH).train()
    network(*pictures).detail_score.sum().backward()
    assert network.pretrained_model.conv1.weight.grad is None
    assert network.proposal_net.down1.weight.grad is not None


def test_a_slice_does_not_depend_on_its_batch(network, pictures):
    with torch.inference_mode():
        both, alone = network(*pictures), network(pictures[0][1:], pictures[1][1:])
    torch.testing.assert_close(both.concat_logits[1:], alone.concat_logits, atol=1e-4, rtol=0)
    assert torch.equal(both.detail_index[1:], alone.detail_index)


def test_untrained_attention_is_exactly_the_identity(network, pictures):
    with torch.inference_mode():
        attention = network(*pictures).attention
    assert torch.equal(attention * 6, torch.ones_like(attention))


# Checkpoints


def test_the_published_layout_has_336_keys_of_the_documented_shapes():
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in DreNet().state_dict().items() if not key.startswith("attention")}
    assert len(shapes) == 336
    assert shapes == {key: shape for key, (shape, _) in drenet_layout(1.0, 2).items() if not key.startswith("attention")}
    assert shapes["pretrained_model.conv1.weight"] == (64, 3, 7, 7)
    assert shapes["pretrained_model.layer4.0.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["pretrained_model.layer1.0.downsample.1.num_batches_tracked"] == ()
    assert shapes["pretrained_model.fc.weight"] == (2, 2048)
    assert shapes["proposal_net.down1.weight"] == (128, 2048, 3, 3)
    assert shapes["proposal_net.down3.bias"] == (128,)
    assert shapes["proposal_net.tidy2.weight"] == (1, 128, 1, 1)
    assert shapes["concat_net.weight"] == (2, 16384)
    assert shapes["partcls_net.weight"] == (2, 2048)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 7, "train_acc": 0.9, "net_state_dict": state},
        lambda state: {"net_state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: state,
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "hyper_parameters": {}},
        lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
        lambda state: {"model": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
        lambda state: {
            "model_state_dict": state,
            "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1)}}},
            "loss": 0.1,
        },
        lambda state: {"weights": state, "best": torch.tensor(0.9)},
    ],
    ids=[
        "published",
        "parallel wrapper",
        "plain",
        "state_dict",
        "model",
        "Lightning",
        "compiled",
        "compiled and parallel",
        "of the tutorial",
        "of any name",
    ],
)
def test_a_published_checkpoint_gives_the_same_numbers(wrap, options, network, published, pictures, tmp_path):
    loaded = load_checkpoint(_saved(tmp_path / "published.ckpt", wrap(published), **options))
    assert loaded.metadata.positive == 1
    assert loaded.metadata.width == WIDTH
    with torch.inference_mode():
        assert torch.equal(loaded(*pictures).concat_logits, network(*pictures).concat_logits)


def test_published_names_in_a_safetensors_file_without_metadata_are_read_too(published, network):
    loaded = load_checkpoint_bytes(safetensors_bytes(published))
    assert torch.equal(loaded.concat_net.weight, network.concat_net.weight)


PREFIXES = ("module.", "_orig_mod.", "model.", "_orig_mod.module.", "network.", "net.model.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_name_that_all_keys_stand_under_is_passed_over_in_every_format(prefix, published, network, tmp_path):
    wrapped = {prefix + key: value for key, value in published.items()}
    averaged = {**wrapped, "n_averaged": torch.tensor(3)}
    for loaded in (
        load_checkpoint_bytes(safetensors_bytes(wrapped)),
        load_checkpoint(_saved(tmp_path / "a.ckpt", {"state_dict": averaged})),
    ):
        assert torch.equal(loaded.concat_net.weight, network.concat_net.weight)


def test_objects_beside_the_tensors_are_the_named_cause(published, tmp_path):
    content = {"state_dict": published, "hyper_parameters": argparse.Namespace(width=1)}
    with pytest.raises(ConfigurationError, match="other objects are never unpickled"):
        load_checkpoint(_saved(tmp_path / "a.ckpt", content))


def test_of_several_networks_in_one_file_none_is_guessed(published, tmp_path):
    with pytest.raises(ConfigurationError, match=r"several networks \(student, teacher\)"):
        load_checkpoint(_saved(tmp_path / "a.ckpt", {"student": published, "teacher": published}))


def test_half_precision_checkpoints_are_computed_in_fp32(published, tmp_path):
    half = {key: value.half() if value.is_floating_point() else value for key, value in published.items()}
    loaded = load_checkpoint(_saved(tmp_path / "half.ckpt", half))
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}


def test_our_own_checkpoint_keeps_its_metadata(network, tmp_path):
    save_checkpoint(network, tmp_path / "own.safetensors")
    loaded = load_checkpoint(tmp_path / "own.safetensors")
    assert replace(loaded.metadata, sha256="") == network.metadata
    assert len(loaded.metadata.sha256) == 64
    assert not loaded.training


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda _: b"PK\x03\x04rubbish",
        lambda _: b"",
        lambda _: b"\x80\x04.",
        lambda data: data.replace(b'\\"positive\\":1', b'\\"positive\\":7'),
        lambda data: data.replace(b'\\"positive\\":1', b'\\"positive\\":x'),
        lambda data: data.replace(b'\\"width\\":0.0625', b'\\"width\\":900000'),
    ],
    ids=["cut short", "broken zip", "empty", "another pickle", "no such class", "broken metadata", "absurd width"],
)
def test_a_damaged_or_foreign_checkpoint_is_refused_with_a_cure(network, damage):
    whole = checkpoint_bytes(network)
    damaged = damage(whole)
    assert damaged != whole
    with pytest.raises(ConfigurationError, match=r"CHECKPOINT_CORRUPT.*expected a DRE-Net checkpoint"):
        load_checkpoint_bytes(damaged)


def test_whether_a_checkpoint_is_sound_is_not_asked_of_torch_which_takes_every_core(network, monkeypatch):
    data = checkpoint_bytes(network)
    monkeypatch.setattr(torch, "isfinite", None)
    assert load_checkpoint_bytes(data).metadata.classes == network.metadata.classes


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -float("inf")])
def test_a_checkpoint_with_a_number_that_is_none_is_refused_naming_the_tensor(wild, network):
    state = {key: value.clone() for key, value in network.state_dict().items()}
    state["pretrained_model.conv1.weight"].view(-1)[7] = wild
    with pytest.raises(ConfigurationError, match=r"NaN or infinity in 1 of its tensors \(pretrained_model.conv1.weight\)"):
        load_checkpoint_bytes(safetensors_bytes(state))


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    (tmp_path / "p.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n")
    with pytest.raises(ConfigurationError, match="git lfs pull"):
        load_checkpoint(tmp_path / "p.ckpt")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    path = _saved(tmp_path / "evil.pt", {"net_state_dict": Evil()})
    with pytest.raises(ConfigurationError, match="CHECKPOINT_CORRUPT"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda _: {"conv.weight": torch.zeros(3)}, "lacks 283 keys"),
        (lambda state: state | {"extra.weight": torch.zeros(1)}, r"has unknown 1 keys \(extra.weight"),
        (lambda state: state | {"concat_net.bias": torch.zeros(3)}, r"has other shapes for 1 keys \(concat_net.bias"),
        (lambda state: state | {"pretrained_model.conv1.weight": torch.tensor(1.0)}, "has other shapes"),
    ],
)
def test_a_checkpoint_of_another_network_names_what_does_not_fit(change, told, published, tmp_path):
    with pytest.raises(ConfigurationError, match=told):
        load_checkpoint(_saved(tmp_path / "x.pt", {"net_state_dict": change(published)}))


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        load_checkpoint(tmp_path / "none.ckpt")


def test_a_torchvision_backbone_starts_the_trunk_and_leaves_its_thousand_classes(network, tmp_path):
    state = {key: value + 1 for key, value in network.pretrained_model.state_dict().items() if "tracked" not in key}
    state |= {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}
    started = formula_network(WIDTH, phase=1)
    before = started.pretrained_model.fc.weight.clone()
    load_start(started, _saved(tmp_path / "resnet50.pth", state))
    assert torch.equal(started.pretrained_model.conv1.weight, network.pretrained_model.conv1.weight + 1)
    assert torch.equal(started.pretrained_model.fc.weight, before)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04rubbish"])
def test_an_unreadable_backbone_is_refused(content, network, tmp_path):
    path = tmp_path / "resnet50.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError):
        load_start(network, path)


def test_formula_networks_answer_to_their_input(network, pictures):
    with torch.inference_mode():
        first, second = network(*pictures).concat_logits.numpy()
    assert np.abs(first - second).max() > 0.01
    assert not torch.equal(network.concat_net.weight, formula_network(WIDTH, phase=1).concat_net.weight)
