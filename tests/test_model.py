"""DRE-Net is what the paper and the published figures say, recomputed here in plain numpy."""

import numpy as np
import pytest
import torch

from pipeline.config import EngineConfig
from pipeline.errors import ConfigurationError
from pipeline.infer import _fast, lung_integral, lung_share
from pipeline.model import formula_network, load_checkpoint_bytes
from pipeline.model.checkpoint import checkpoint_bytes
from pipeline.model.drenet import LARGE_LEVELS, SMALL_LEVELS, anchors, cut, hard_nms, overlapping
from pipeline.records import Box


@pytest.fixture(scope="module")
def network():
    return formula_network(1 / 16)


@pytest.fixture(scope="module")
def pictures():
    draw = torch.Generator().manual_seed(3)
    return torch.randn(2, 3, 448, 448, generator=draw), torch.randn(2, 3, 600, 600, generator=draw)


def _plain_anchors(levels):
    boxes = []
    for side, stride, n in levels:
        for row in range(n):
            for column in range(n):
                y, x = 224 + stride // 2 + row * stride, 224 + stride // 2 + column * stride
                boxes.append((y - side // 2, x - side // 2, y + side // 2, x + side // 2))
    return boxes


def test_anchors_are_numbered_row_by_row():
    assert anchors(SMALL_LEVELS).tolist() == [list(box) for box in _plain_anchors(SMALL_LEVELS)]
    assert len(anchors(SMALL_LEVELS)) == 245
    assert len(anchors(LARGE_LEVELS)) == 16


def _iou(a, b):
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, height) * max(0, width)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("ties", [False, True])
def test_nms_agrees_with_a_plain_one(ties):
    boxes = _plain_anchors(SMALL_LEVELS)
    scores = np.random.default_rng(5).normal(size=(4, 245)).round(0 if ties else 9)
    got = hard_nms(torch.from_numpy(scores), torch.from_numpy(overlapping(anchors(SMALL_LEVELS))), 3)
    for row, chosen in zip(scores, got.tolist(), strict=True):
        kept = []
        for index in sorted(range(245), key=lambda i: (-row[i], i)):
            if len(kept) < 3 and all(_iou(boxes[index], boxes[k]) <= 0.1 for k in kept):
                kept.append(index)
        assert chosen == kept


def test_a_cut_agrees_with_plain_bilinear_interpolation(pictures):
    image, box = pictures[0][:1], [10, 20, 58, 68]
    got = cut(image, box, 224)[0, 1].numpy()
    part = image[0, 1, 10:58, 20:68].numpy().astype(np.float64)
    place = np.linspace(0, 47, 224)
    low = np.minimum(place.astype(int), 46)
    share = place - low
    rows = part[low] * (1 - share)[:, None] + part[low + 1] * share[:, None]
    want = rows[:, low] * (1 - share) + rows[:, low + 1] * share
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_dropout_is_off_and_every_call_gives_the_same_numbers(network, pictures):
    with torch.inference_mode():
        first, second = network(*pictures), network(*pictures)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_a_slice_does_not_depend_on_its_batch(network, pictures):
    with torch.inference_mode():
        both, alone = network(*pictures), network(pictures[0][1:], pictures[1][1:])
    torch.testing.assert_close(both.concat_logits[1:], alone.concat_logits, atol=1e-4, rtol=0)
    assert torch.equal(both.detail_index[1:], alone.detail_index)


def test_untrained_attention_is_exactly_the_identity(network, pictures):
    with torch.inference_mode():
        attention = network(*pictures).attention
    assert torch.equal(attention * 6, torch.ones_like(attention))


def test_a_checkpoint_in_the_published_layout_has_336_keys_and_gives_the_same_numbers(network, pictures, tmp_path):
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("attention")}
    assert len(state) == 336
    path = tmp_path / "published.ckpt"
    torch.save({"epoch": 7, "net_state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    loaded = load_checkpoint_bytes(path.read_bytes())
    with torch.inference_mode():
        assert torch.equal(loaded(*pictures).concat_logits, network(*pictures).concat_logits)


def test_our_own_checkpoint_keeps_its_metadata(network):
    loaded = load_checkpoint_bytes(checkpoint_bytes(network))
    assert loaded.metadata.meaning.startswith("none")
    assert len(loaded.metadata.sha256) == 64


@pytest.mark.parametrize(
    "damage", [lambda d: d[: len(d) // 2], lambda _: b"PK\x03\x04rubbish", lambda _: b"", lambda _: b"\x80\x04."]
)
def test_a_damaged_or_foreign_checkpoint_is_refused_with_a_cure(network, damage):
    with pytest.raises(ConfigurationError, match="CHECKPOINT_CORRUPT"):
        load_checkpoint_bytes(damage(checkpoint_bytes(network)))


def test_a_checkpoint_of_another_network_names_what_it_lacks(tmp_path):
    torch.save({"net_state_dict": {"conv.weight": torch.zeros(3)}}, tmp_path / "x.pt")
    with pytest.raises(ConfigurationError, match="lacks"):
        load_checkpoint_bytes((tmp_path / "x.pt").read_bytes())


def test_folding_keeps_the_numbers_and_bf16_keeps_them_nearly_where_boxes_are_forced_equal(network, pictures):
    cpu = torch.device("cpu")
    with torch.inference_mode():
        plain = network(*pictures)
        folded = _fast(network, torch.float32, cpu)(*pictures)
        half = _fast(network, torch.bfloat16, cpu)(*pictures, forced_index=plain.detail_index)
    torch.testing.assert_close(folded.concat_logits, plain.concat_logits, atol=1e-4, rtol=0)
    assert torch.equal(half.detail_index, plain.detail_index)
    change = (half.concat_logits.softmax(1) - plain.concat_logits.softmax(1)).abs().max()
    assert change < 0.02


def test_the_lung_share_of_a_box_counts_what_lies_outside_the_picture_as_none():
    lung = np.zeros((448, 448), bool)
    lung[:, :100] = True
    assert lung_share(lung_integral(lung), Box(-100, 0, 100, 100)) == 0.5
    assert lung_share(lung_integral(lung), Box(0, 50, 100, 150)) == 0.5


def test_an_engine_that_is_not_there_is_refused():
    from pipeline.errors import DeviceError
    from pipeline.infer import resolve_engine

    if torch.cuda.is_available():
        assert resolve_engine("cuda") == "cuda"
    else:
        with pytest.raises(DeviceError, match="CUDA"):
            resolve_engine(EngineConfig(name="cuda").name)
