"""What `make bench` reckons and tells: the work of a slice, what the peak allows, which goals hold, what was measured."""

import pytest
import torch

from benchmarks.bench import engines, plain, plots, tell
from benchmarks.bench.clock import Spent, in_turn, middle
from benchmarks.bench.peak import flop_a_slice, flop_of_image
from benchmarks.bench.reading import OURS, UNINDEXED
from pipeline.phantom import write_archive
from pipeline.study.drenet.resnet import ResNet

MACHINE = {
    "processor": "P", "instructions": ["avx2"], "cores": 2, "memory_gib": 8, "gpu": "", "load_before": 0.5, "commit": "abc",
    "date": "2026-01-01", "versions": {"torch": "2"},
}  # fmt: skip
READ = {name: {"clock_s": 1.0, "cpu_s": 0.9} for name in (OURS, UNINDEXED, "SimpleITK", "MONAI, ITK")}
RUN = {"n_studies": 4, "studies_a_second": 0.5, "clock_s": 10.0, "cpu_s": 16.0, "stages": {"infer": 1.0}}
FIGURES = {
    "machine": MACHINE,
    "seconds": {"engines": 1.0},
    "engines": {
        "slices": 2, "flop_a_slice": 1e11, "stages": {"read": 0.01, "lung": 0.1, "prepare": 0.02}, "width": 1.0,
        "peak_flops": {"fp32": 1e11, "bf16": 2e11}, "refused": {},
        "engines": {"openvino:fp32": {"cpu_s": 2.2, "clock_s": 2.3, "share_of_peak": 0.91}},
    },
    "reading": {
        "slices": 300, "versions": {"SimpleITK": "2"}, "stages_cpu_s": {"read": 0.01, "lung": 0.06, "prepare": 0.015},
        "warm": READ,
        "cold": READ,
        "headers": {"ours": 4000.0, "pydicom": 2000.0},
    },
    "runs": {
        "studies": 4, "width": 1.0, "fastest": "openvino:mixed", "ranks": {"1": [RUN], "2": [RUN | {"studies_a_second": 0.96}]},
        "kinds": {
            "torch:fp32": [RUN], "openvino:fp32": [RUN | {"studies_a_second": 0.8}],
            "openvino:mixed": [RUN | {"studies_a_second": 1.0}], "plain": [RUN],
        },
    },
    "growth": {"runs": {"10": RUN, "100": RUN}, "scale": "| stage |\n|---|"},
    "syntaxes": {"read": {name: {"clock_s": 0.2, "cpu_s": 0.1} for name in ("uncompressed", "RLE")}},
}  # fmt: skip
PARTS = [name for name in FIGURES if name not in {"machine", "seconds"}]


def test_the_work_of_an_image_is_twice_the_multiplications_of_its_convolutions():
    by_hand = 0.0

    def count(layer, given, made):
        nonlocal by_hand
        by_hand += 2 * given[0].shape[1] * layer.kernel_size[0] ** 2 * made.numel()

    trunk = ResNet(1 / 16).eval()
    trunk.conv1 = torch.nn.Conv2d(2, 4, 7, 2, 3)
    for layer in trunk.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    trunk(torch.zeros(1, 2, 64, 64))
    assert flop_of_image(64, 1 / 16) == by_hand


def test_two_sevenths_of_a_slices_work_are_its_first_look():
    assert flop_of_image(448) / flop_a_slice() == pytest.approx(engines.FIRST_LOOK, rel=0.01)


def test_mixed_precision_can_be_no_faster_than_both_peaks_allow():
    peaks = {"fp32": 100.0, "bf16": 200.0}
    fp32_s, mixed_s, bf16_s = (engines.least_seconds(precision, 700.0, peaks) for precision in ("fp32", "mixed", "bf16"))
    assert (fp32_s, mixed_s, bf16_s) == pytest.approx((7.0, 4.5, 3.5))
    assert engines.least_seconds("fp32", 700.0, {"fp32": 100.0}) == 7.0


def test_works_take_turns_and_the_middle_of_each_is_told():
    order = []
    works = {name: lambda name=name: order.append(name) or Spent(float(len(order)), 0.0) for name in ("a", "b")}
    taken = in_turn(works, 3)
    assert order == ["a", "b"] * 3
    assert middle(taken["a"]).clock_s == 3.0


@pytest.mark.parametrize(("is_least", "holds"), [(True, "yes"), (False, "NO")])
def test_a_goal_says_whether_its_figure_holds(is_least, holds):
    assert tell.Goal("what", 2.0, 1.5, is_least=is_least).row.endswith(f"| {holds} |")


def test_the_page_tells_of_every_part_and_its_goals():
    page = tell.page(FIGURES)
    for said in (
        "openvino:fp32, share of the measured peak | 0.91",
        "openvino:mixed over torch:fp32, studies/s, 2 ranks | 2 |",
        "two ranks over one",
    ):
        assert said in page
    assert page.count("\n## ") == 1 + len(PARTS)


@pytest.mark.parametrize(("load", "is_said"), [(0.4, False), (3.0, True)])
def test_a_page_measured_on_a_busy_machine_says_so(load, is_said):
    told = tell.page({"machine": MACHINE | {"load_before": load}, "seconds": {}})
    assert ("The machine was busy" in told) == is_said


@pytest.mark.parametrize("part", PARTS)
def test_a_part_measured_alone_is_told_and_drawn_alone(part, tmp_path):
    some = {name: FIGURES[name] for name in ("machine", "seconds", part)}
    has_goals = part in {"engines", "reading", "runs"}
    assert tell.page(some).count("\n## ") == 1 + has_goals
    plots.draw(some, tmp_path)
    assert [path.stem for path in tmp_path.iterdir()] == ([] if part == "growth" else [part])


def test_the_plain_way_sees_the_kept_slices_of_a_series_with_black_round_the_lung(tmp_path):
    write_archive(tmp_path / "archive", studies=1, matrix=128, slices=20)
    images, zooms = plain.chosen_slices(next((tmp_path / "archive").rglob("*.dcm")).parent)
    assert images.shape[1:] == (448, 448)
    assert zooms.shape == (len(images), 600, 600)
    assert len(images) >= 3
    assert (images == 0).float().mean() > 0.1
