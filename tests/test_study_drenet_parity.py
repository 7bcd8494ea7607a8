"""DRE-Net computed a second time, in plain numpy and from the description alone, gives the same numbers.

Nothing of the package is used on that side but the weights: convolutions, batch norms, pooling, anchors, NMS, cuts and the
second look are written out again, in double precision.
"""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.study.drenet import formula_network, load_checkpoint

WIDTH = 1 / 16


def conv(x_NCHW, weight, bias=None, stride=1, padding=0):
    x_NCHW = np.pad(x_NCHW, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x_NCHW, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    y = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)
    return y if bias is None else y + bias[None, :, None, None]


def norm(x, state, key):
    mean, var, gain, shift = (
        state[f"{key}.{name}"][None, :, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * gain + shift


def bottleneck(x, state, key, stride):
    y = np.maximum(norm(conv(x, state[f"{key}.conv1.weight"]), state, f"{key}.bn1"), 0)
    y = np.maximum(norm(conv(y, state[f"{key}.conv2.weight"], None, stride, 1), state, f"{key}.bn2"), 0)
    y = norm(conv(y, state[f"{key}.conv3.weight"]), state, f"{key}.bn3")
    if f"{key}.downsample.0.weight" in state:
        x = norm(conv(x, state[f"{key}.downsample.0.weight"], None, stride), state, f"{key}.downsample.1")
    return np.maximum(x + y, 0)


def feature_map(x, state):
    key = "pretrained_model"
    y = np.maximum(norm(conv(x, state[f"{key}.conv1.weight"], None, 2, 3), state, f"{key}.bn1"), 0)
    y = np.pad(y, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    y = sliding_window_view(y, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))
    for layer, n_blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(n_blocks):
            y = bottleneck(y, state, f"{key}.layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1)
    return y


def pyramid(x, state):
    scores = []
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        down, tidy = f"proposal_net.down{number}", f"proposal_net.tidy{number}"
        x = np.maximum(conv(x, state[f"{down}.weight"], state[f"{down}.bias"], stride, 1), 0)
        scores.append(conv(x, state[f"{tidy}.weight"], state[f"{tidy}.bias"])[:, 0].reshape(len(x), -1))
    return np.concatenate(scores[:2], axis=1), scores[2]


def squares(levels):
    boxes = []
    for side, stride, n in levels:
        for row in range(n):
            for column in range(n):
                y, x = 224 + stride // 2 + row * stride, 224 + stride // 2 + column * stride
                boxes.append((y - side // 2, x - side // 2, y + side // 2, x + side // 2))
    return boxes


def iou(a, b):
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, height) * max(0, width)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def best_three(scores, boxes):
    kept = []
    for index in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if len(kept) < 3 and all(iou(boxes[index], boxes[k]) <= 0.1 for k in kept):
            kept.append(index)
    return kept


def resized(part_CHW, size):
    for axis in (1, 2):
        place = np.linspace(0, part_CHW.shape[axis] - 1, size)
        low = np.minimum(place.astype(int), part_CHW.shape[axis] - 2)
        share = (place - low).reshape((-1, 1) if axis == 1 else (1, -1))
        part_CHW = np.take(part_CHW, low, axis) * (1 - share) + np.take(part_CHW, low + 1, axis) * share
    return part_CHW


def plain_drenet(image_3HW, zoom_3HW, state):
    """One slice -> what DRE-Net says of it, by the names of its output."""
    whole = feature_map(image_3HW[None], state)
    small, large = pyramid(whole, state)
    small_boxes, large_boxes = squares([(48, 32, 14), (96, 64, 7)]), squares([(192, 128, 4)])
    of_small, of_large = best_three(small[0], small_boxes), best_three(large[0], large_boxes)
    boxes = [small_boxes[i] for i in of_small] + [large_boxes[i] for i in of_large]
    padded = np.pad(image_3HW, ((0, 0), (224, 224), (224, 224)))
    details = np.stack([resized(padded[:, y0:y1, x0:x1], 224) for y0, x0, y1, x1 in boxes])
    detail = feature_map(details, state).mean(axis=(2, 3))
    y0, x0, y1, x1 = (int(min(max(edge - 224, 0), 448) * 600 / 448) for edge in boxes[3])
    second = feature_map(resized(zoom_3HW[:, y0:y1, x0:x1], 448)[None], state).mean(axis=(2, 3))[0]
    slice_feature = whole.mean(axis=(2, 3))[0]
    weight = np.exp(detail @ state["attention.weight"][0] + state["attention.bias"][0])
    weight /= weight.sum()
    features = np.concatenate([*(6 * weight[:, None] * detail), slice_feature, second])
    return {
        "raw_logits": state["pretrained_model.fc.weight"] @ slice_feature + state["pretrained_model.fc.bias"],
        "concat_logits": state["concat_net.weight"] @ features + state["concat_net.bias"],
        "part_logits": detail @ state["partcls_net.weight"].T + state["partcls_net.bias"],
        "detail_index": np.array(of_small + of_large),
        "detail_score": np.concatenate([small[0, of_small], large[0, of_large]]),
        "boxes": np.array(boxes) - 224,
        "attention": weight,
    }


@pytest.fixture(scope="module")
def slices():
    """Two slices: one of noise, one smooth with a black half."""
    draw = torch.Generator().manual_seed(3)
    images, zooms = (torch.randn(2, 3, size, size, generator=draw) for size in (448, 600))
    coarse = torch.randn(1, 3, 9, 9, generator=draw)
    for stack in (images, zooms):
        stack[1:] = torch.nn.functional.interpolate(coarse, size=stack.shape[2:], mode="bicubic")
        stack[1, :, :, : stack.shape[3] // 2] = -2.0
    return images, zooms


@pytest.mark.parametrize("attention", ["untrained", "trained"])
def test_the_whole_network_agrees_with_its_description_in_numpy(attention, slices, tmp_path):
    network = formula_network(WIDTH)
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("attention")}
    if attention == "trained":
        state["attention.weight"] = torch.linspace(-1, 1, 128)[None]
        state["attention.bias"] = torch.ones(1)
    torch.save({"net_state_dict": state}, tmp_path / "model.ckpt")
    with torch.inference_mode():
        got = load_checkpoint(tmp_path / "model.ckpt")(*slices)._asdict()
    plain = {key: value.double().numpy() for key, value in state.items()}
    plain = {"attention.weight": np.zeros((1, 128)), "attention.bias": np.zeros(1)} | plain
    for n in range(2):
        want = plain_drenet(slices[0][n].double().numpy(), slices[1][n].double().numpy(), plain)
        for name, value in want.items():
            np.testing.assert_allclose(got[name][n].numpy(), value, atol=1e-4, rtol=1e-5, err_msg=f"{name} of slice {n}")


def test_the_parity_slices_tell_wrong_networks_from_right_ones(slices):
    network = formula_network(WIDTH)
    with torch.inference_mode():
        right = network(*slices)
        order = network(slices[0], slices[1], right.detail_index[:, [1, 0, 2, 3, 4, 5]])
        second = network(slices[0], slices[1].flip(3))
    for wrong in (order, second):
        assert (wrong.concat_logits - right.concat_logits).abs().max() > 0.01
