"""Every engine gives the network's own numbers, whoever computes them and whatever stands beside a slice."""

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import EngineConfig
from pipeline.errors import ConfigurationError, DeviceError, Reason, StudyError
from pipeline.records import Box, PreparedStudy
from pipeline.study import compiled
from pipeline.study.anchors import LARGE_LEVELS, SMALL_LEVELS, anchors
from pipeline.study.checkpoint import Rounding
from pipeline.study.drenet import formula_network, load_checkpoint, save_checkpoint
from pipeline.study.drenet.checkpoint import kept_of
from pipeline.study.drenet.network import cut_boxes, hard_nms
from pipeline.study.engine import Engine, by_slice, choice, device, openvino, resolve_engine
from pipeline.study.engine.by_slice import BySlice
from pipeline.study.engine.fast import fast_network, normalised, planes
from pipeline.study.engine.one_pass import N_SMALL_ANCHORS
from pipeline.study.engine.openvino import CompiledTrunk
from pipeline.study.engine.quantise import with_rounding
from pipeline.study.engine.shown import anchors_in_lung, lung_integral, lung_shares
from tests.tools import environment, program

WIDTH = 1 / 16
ENGINES = [("torch", "fp32"), ("torch", "mixed"), ("torch", "bf16"), ("openvino", "fp32")]
CPU = torch.device("cpu")
EDGES = torch.tensor([[0, 13, 244, 0, 3, 15]])
"""Details over the four edges of the picture."""


@pytest.fixture(scope="module")
def network():
    return formula_network(WIDTH)


@pytest.fixture(scope="module")
def study():
    draw = np.random.default_rng(2)
    lung = np.zeros((3, 448, 448), bool)
    lung[:, 100:300, 100:300] = True
    return PreparedStudy(
        images=draw.integers(0, 256, (3, 448, 448), np.uint8),
        zoom=draw.integers(0, 256, (3, 600, 600), np.uint8),
        lung=lung,
        slice_index=np.arange(3, dtype=np.int32),
        z_mm=np.arange(3.0),
        crops=(Box(0, 0, 1, 1),) * 3,
        lung_area_mm2=np.ones(3),
    )


def _engine(networks, config):
    return Engine([kept_of(network) for network in networks], config)


def _rows(study, rows):
    return PreparedStudy(
        study.images[rows], study.zoom[rows], study.lung[rows], study.slice_index[rows], study.z_mm[rows], study.crops[:1],
        study.lung_area_mm2[rows],
    )  # fmt: skip


def _slice(study):
    return torch.from_numpy(study.images[:1]), torch.from_numpy(study.zoom[:1])


def _config(name, precision):
    if name == "openvino":
        pytest.importorskip("openvino", reason="no OpenVINO here: `make test-env` brings it")
    return EngineConfig(name=name, precision=precision)


BOXES = pytest.mark.parametrize("boxes", [None, EDGES], ids=["own boxes", "boxes over the edges"])


@BOXES
def test_two_planes_and_folded_norms_are_the_three_channel_network(boxes, network, study):
    image, zoom = _slice(study)
    with torch.inference_mode():
        want = network(normalised(image), normalised(zoom), boxes)
        got = fast_network(network, EngineConfig(name="torch"), CPU)(planes(image), planes(zoom), boxes)
    assert torch.equal(got.detail_index, want.detail_index)
    for part, value in got._asdict().items():
        limit = 1e-5 if part.endswith("logits") else 1e-4  # on noise the plain network's own scores err by 7e-5
        torch.testing.assert_close(value, getattr(want, part), atol=limit, rtol=0)


@BOXES
@pytest.mark.parametrize("details", ["anywhere", "lung"])
def test_a_slice_by_itself_without_torch_is_what_the_network_says_of_it(details, boxes, network, study):
    image, zoom = _slice(study)
    network = replace_metadata(network, details=details)
    in_lung = anchors_in_lung(lung_integral(study.lung[0]))
    kept = kept_of(network)
    forced = None if boxes is None else boxes[0].numpy() + np.repeat([0, N_SMALL_ANCHORS], 3)
    with torch.inference_mode():
        want = network(normalised(image), normalised(zoom), boxes, torch.from_numpy(in_lung)[None])
    got = BySlice(kept, CompiledTrunk(kept, EngineConfig()))(study.images[0], study.zoom[0], in_lung, forced)
    assert got.anchors.tolist() == (want.detail_index[0].numpy() + np.repeat([0, N_SMALL_ANCHORS], 3)).tolist()
    assert got.boxes.tolist() == want.boxes[0].tolist()
    assert got.probability == pytest.approx(want.concat_logits.softmax(1)[0, 1].item(), abs=1e-5)
    np.testing.assert_allclose(got.part, want.part_logits[0].softmax(1)[:, 1].numpy(), atol=1e-5)
    for part, value in (("score", want.detail_score), ("attention", want.attention), ("looks", want.looks)):
        np.testing.assert_allclose(getattr(got, part), value[0].numpy(), atol=1e-4)


def replace_metadata(network, **changes):
    other = formula_network(WIDTH)
    other.load_state_dict(network.state_dict())
    other.metadata = replace(network.metadata, **changes)
    return other


def test_bf16_moves_a_probability_by_less_than_two_hundredths_where_boxes_are_forced_equal(network, study):
    image, zoom = planes(torch.from_numpy(study.images)), planes(torch.from_numpy(study.zoom))
    with torch.inference_mode():
        want = fast_network(network, EngineConfig(name="torch", precision="fp32"), CPU)(image, zoom)
        got = fast_network(network, EngineConfig(name="torch", precision="bf16"), CPU)(image, zoom, want.detail_index)
    change = (got.concat_logits.softmax(1) - want.concat_logits.softmax(1)).abs().max()
    assert 0 < change < 0.02


def test_mixed_chooses_the_boxes_of_fp32_and_rounds_what_they_show(network, study):
    exact, mixed = (
        _engine([network], EngineConfig(name="torch", precision=precision)).predict(study) for precision in ("fp32", "mixed")
    )
    moved = []
    for (one,), (other,) in zip(exact, mixed, strict=True):
        assert [(at.box, at.score) for at in other.details] == [(at.box, at.score) for at in one.details]
        moved.append(abs(other.probability - one.probability))
    assert 0 < max(moved) < 0.02


def test_in_mixed_only_the_closer_looks_are_bf16(network):
    fast = fast_network(network, EngineConfig(name="torch", precision="mixed"), CPU)
    assert fast.trunk(torch.zeros(1, 2, 64, 64)).dtype == torch.float32
    assert fast.look_closer(torch.zeros(1, 2, 64, 64)).dtype == torch.bfloat16


def test_openvino_computes_mixed_in_two_precisions_where_the_processor_has_both(network, study):
    _config("openvino", "mixed")
    if not compiled.has_bf16():
        with pytest.raises(DeviceError, match="mixed"):
            _engine([network], EngineConfig(name="openvino", precision="mixed"))
        return
    exact, mixed = (_engine([network], EngineConfig(name="openvino", precision=p)).predict(study) for p in ("fp32", "mixed"))
    for (one,), (other,) in zip(exact, mixed, strict=True):
        assert [detail.box for detail in other.details] == [detail.box for detail in one.details]
        assert 0 < abs(other.probability - one.probability) < 0.02


@pytest.fixture(scope="module")
def rounded(study):
    """The network, saying how it is rounded; None where the processor cannot round, which says so."""
    if choice.has_int8():
        return with_rounding(formula_network(WIDTH), [study])
    with pytest.raises(DeviceError, match="VNNI"):
        with_rounding(formula_network(WIDTH), [study])
    return None


def test_int8_chooses_the_boxes_of_fp32_and_keeps_its_numbers_near(rounded, study):
    if rounded is None:
        return
    exact, rough = (_engine([rounded], EngineConfig(precision=precision)).predict(study) for precision in ("fp32", "int8"))
    moved = []
    for (one,), (other,) in zip(exact, rough, strict=True):
        assert [(at.box, at.score) for at in other.details] == [(at.box, at.score) for at in one.details]
        moved.append(abs(other.probability - one.probability))
    assert 0 < max(moved) < 0.02


def test_in_int8_the_first_look_is_fp32_and_each_kind_of_look_is_shifted_as_measured(rounded, study):
    if rounded is None:
        return
    unshifted = formula_network(WIDTH)
    measured = rounded.metadata.rounding
    unshifted.metadata = replace(rounded.metadata, rounding=tuple(replace(one, shift=(0.0,) * 128) for one in measured))
    int8 = EngineConfig(precision="int8")
    kept, bare = (CompiledTrunk(kept_of(one), int8) for one in (rounded, unshifted))
    exact = CompiledTrunk(kept_of(rounded), EngineConfig())
    image = by_slice.cut(by_slice.scaled(study.images[0]), np.array([[0, 0, 448, 448]]), 448)
    details = np.repeat(image[:, :, :224, :224], 6, axis=0)
    assert (kept.first(image) == exact.first(image)).all()
    assert (kept.closer(image) != exact.closer(image)).any()
    for look, rounding in zip((details, image), measured, strict=True):
        moved = (kept.closer(look) - bare.closer(look)).mean(axis=(0, 2, 3))
        np.testing.assert_allclose(moved, rounding.shift, atol=1e-4)
    assert measured[0].tops != measured[1].tops
    assert max(map(abs, measured[0].shift)) > 1e-3


def test_how_a_network_is_rounded_is_kept_in_its_checkpoint_and_the_same_each_time(rounded, study, tmp_path):
    if rounded is None:
        return
    save_checkpoint(rounded, tmp_path / "one.safetensors")
    read = load_checkpoint(tmp_path / "one.safetensors")
    assert (
        read.metadata.rounding == rounded.metadata.rounding == with_rounding(formula_network(WIDTH), [study]).metadata.rounding
    )
    assert _engine([read], EngineConfig(precision="int8")).predict(study) == Engine(
        [rounded], EngineConfig(precision="int8")
    ).predict(study)


@pytest.mark.parametrize("change", [{"tops": (1.0,)}, {"tops": (0.0,) * 48}, {"shift": (0.0,)}])
def test_a_rounding_that_does_not_fit_its_network_is_refused(change, tmp_path):
    network = formula_network(WIDTH)
    n_features = network.pretrained_model.n_features
    one = Rounding((1.0,) * 48, (0.0,) * n_features)
    for rounding in ((one, replace(one, **change)), (one,)):
        network.metadata = replace(network.metadata, rounding=rounding)
        save_checkpoint(network, tmp_path / "bad.safetensors")
        with pytest.raises(ConfigurationError, match="its metadata fits no DRE-Net"):
            load_checkpoint(tmp_path / "bad.safetensors")


def test_int8_is_refused_where_it_was_not_measured_or_is_not_computed(network, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="engine = torch does not compute it: choose openvino"):
        _engine([network], EngineConfig(name="torch", precision="int8"))
    monkeypatch.setattr(choice, "instructions", lambda: frozenset({"avx512_vnni"}))
    with pytest.raises(ConfigurationError, match="drenet quantise"):
        _engine([network], EngineConfig(precision="int8"))
    assert "int8" in choice.hint(EngineConfig())
    monkeypatch.setattr(choice, "instructions", lambda: frozenset({"avx2"}))
    with pytest.raises(DeviceError, match=r"VNNI.*choose fp32"):
        _engine([network], EngineConfig(precision="int8"))
    assert choice.hint(EngineConfig()) == ""


def test_proposals_and_final_layers_stay_fp32_in_bf16(network):
    fast = fast_network(network, EngineConfig(name="torch", precision="bf16"), CPU)
    assert {value.dtype for value in fast.parameters()} == {torch.float32}  # what is left beside the trunk
    assert fast.trunk(torch.zeros(1, 2, 64, 64)).dtype == torch.bfloat16


def test_making_a_network_fast_leaves_the_original_as_it_was(network):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fast_network(network, EngineConfig(name="torch", precision="bf16"), CPU)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
        assert value.dtype == before[key].dtype


@pytest.mark.parametrize(("name", "precision"), ENGINES)
def test_a_slice_does_not_depend_on_its_neighbours_by_a_single_bit(name, precision, network, study):
    engine = _engine([network], _config(name, precision))
    assert engine.predict(study)[2:] == engine.predict(_rows(study, slice(2, 3)))


def test_each_network_has_its_column_and_its_own_positive_class(network, study):
    other = formula_network(WIDTH)
    other.metadata = replace(other.metadata, positive=0)
    ((first, second),) = _engine([network, other], EngineConfig()).predict(_rows(study, slice(1)))
    assert first.probability == pytest.approx(1 - second.probability, abs=1e-6)
    assert [len(first.details), len(second.details)] == [6, 6]


def test_the_rank_may_answer_its_messages_between_slices(network, study):
    ticks = []
    _engine([network], EngineConfig()).predict(study, lambda: ticks.append(1))
    assert len(ticks) == 3


def test_a_studys_slices_in_one_batch_as_on_a_gpu_are_those_one_by_one(network, study, monkeypatch):
    engine = _engine([network, formula_network(WIDTH)], EngineConfig(name="torch"))
    one_by_one = engine.predict(study)
    monkeypatch.setattr(engine, "_at_once", len(study.images))
    _check_alike(engine.predict(study), one_by_one)


def _check_alike(got, want):
    for one, other in zip(want, got, strict=True):
        for alone, together in zip(one, other, strict=True):
            assert together.probability == pytest.approx(alone.probability, abs=1e-5)
            assert [detail.box for detail in together.details] == [detail.box for detail in alone.details]
            assert [d.lung_fraction for d in together.details] == [d.lung_fraction for d in alone.details]


@pytest.mark.parametrize("name", ["torch", "openvino"])
@pytest.mark.parametrize("bias", ["concat_net", "partcls_net", "proposal_net.tidy3", "attention"])
def test_a_score_that_is_no_number_fails_its_study_only(bias, name, study):
    broken = formula_network(WIDTH)
    with torch.no_grad():
        broken.get_submodule(bias).bias[0] = float("nan")
    with pytest.raises(StudyError) as caught:
        _engine([broken], EngineConfig(name=name)).predict(_rows(study, slice(1)))
    assert caught.value.reason == Reason.NONFINITE_OUTPUT


def test_details_are_chosen_without_torch_as_with_it_among_equals_too():
    draw = np.random.default_rng(5)
    for _ in range(50):
        score = draw.integers(0, draw.integers(2, 200), len(by_slice.SMALL_A4)).astype(np.float32)
        first = draw.random(len(score)) < draw.choice([0.0, 0.02, 0.5, 1.0])
        want = hard_nms(
            torch.from_numpy(score)[None], torch.from_numpy(by_slice.SMALL_OVERLAPS), 3, torch.from_numpy(first)[None]
        )
        assert by_slice.hard_nms(score, by_slice.SMALL_OVERLAPS, 3, first).tolist() == want[0].tolist()


def test_details_are_cut_without_torch_as_with_it_over_the_edges_too():
    draw = np.random.default_rng(6)
    grey = draw.random((448, 448), np.float32)
    boxes = np.array([[0, 0, 448, 448], [-96, -96, 96, 96], [352, 400, 544, 592], [-3, 100, 45, 148], [130, 440, 178, 488]])
    image = torch.from_numpy(np.stack([grey, np.ones_like(grey)]))[None]
    padded = torch.nn.functional.pad(image, (224,) * 4)
    for size in (224, 448):
        want = cut_boxes(padded, torch.from_numpy(boxes)[None] + 224, size)
        np.testing.assert_allclose(by_slice.cut(grey, boxes, size), want.numpy(), atol=1e-6)


def test_the_lung_share_of_a_box_counts_what_lies_outside_the_picture_as_none():
    lung = np.zeros((448, 448), bool)
    lung[:, :100] = True
    assert lung_shares(lung_integral(lung), np.array([[-100, 0, 100, 100], [0, 50, 100, 150]])).tolist() == [0.5, 0.5]


def test_anchors_in_lung_are_those_that_show_at_least_half_of_it():
    lung = np.zeros((448, 448), bool)
    lung[40:260, 30:310] = True
    boxes = anchors((*SMALL_LEVELS, *LARGE_LEVELS)).tolist()
    shares = [
        lung[max(0, top) : bottom, max(0, left) : right].sum() / (bottom - top) ** 2 for top, left, bottom, right in boxes
    ]
    want = [share >= 0.5 for share in shares]
    assert anchors_in_lung(lung_integral(lung)).tolist() == want
    assert 0 < sum(want[245:]) < 16


@pytest.mark.long
def test_memory_stays_flat_over_many_studies(network, study):
    def resident_pages():
        return int(Path("/proc/self/statm").read_text().split()[1])

    engine, one = _engine([network], EngineConfig()), _rows(study, slice(1))
    for _ in range(50):
        engine.predict(one)
    before = resident_pages()
    for _ in range(100):
        engine.predict(one)
    assert resident_pages() < 1.05 * before


# Which engine, on which device


def test_auto_means_the_same_whatever_is_installed(monkeypatch):
    monkeypatch.setattr(choice, "may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_engine("auto") == "openvino"
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    with pytest.raises(DeviceError, match="pip install openvino"):
        resolve_engine("auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_engine("auto") == "cuda"


def test_where_there_is_no_driver_torch_is_not_asked_for_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(choice, "DRIVERS", ("libnobody.so.1",))
    monkeypatch.setattr(choice, "AMD", tmp_path / "kfd")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("torch was asked"))
    assert resolve_engine("auto") == "openvino"
    monkeypatch.setattr(choice, "DRIVERS", ("libnobody.so.1", "libc.so.6"))  # a library that is there
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_engine("auto") == "cuda"


def test_the_processors_instructions_are_read_as_linux_tells_them(monkeypatch, tmp_path):
    monkeypatch.setattr(choice, "PROCESSOR", tmp_path / "cpuinfo")
    assert choice.instructions() == frozenset()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx512_vnni amx_bf16\nbugs\t: none\nflags\t\t: other\n")
    assert choice.instructions() == {"fpu", "avx512_vnni", "amx_bf16"}
    assert choice.has_int8()
    assert choice.has_bf16("openvino")


def test_the_default_engine_says_what_torch_says_to_a_ten_thousandth(network, study):
    default, torch_ = (_engine([network], config).predict(study) for config in (EngineConfig(), EngineConfig(name="torch")))
    for (one,), (other,) in zip(default, torch_, strict=True):
        assert [detail.box for detail in one.details] == [detail.box for detail in other.details]
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


def test_the_default_engine_says_the_same_to_the_bit_on_one_thread_and_on_two(network, study):
    one, two = (_engine([network], EngineConfig(threads=n)).predict(study) for n in (1, 2))
    assert one == two


@pytest.mark.parametrize(("name", "cure"), [("cuda", "--gpus-per-task"), ("openvino", "pip install openvino")])
def test_an_engine_that_is_not_there_is_refused_with_the_cure(name, cure, network, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    with pytest.raises(DeviceError, match=cure):
        _engine([network], EngineConfig(name=name))


def test_openvino_never_computes_in_another_precision_than_asked_for(network, monkeypatch):
    class Library:
        class Core:
            def get_property(self, *_):
                return ["FP32"]

    monkeypatch.setattr(compiled, "import_openvino", Library)
    monkeypatch.setattr(choice, "find_spec", lambda _: object())
    for precision in ("mixed", "bf16"):
        with pytest.raises(DeviceError, match=f"{precision}.*choose fp32"):
            _engine([network], EngineConfig(name="openvino", precision=precision))


def test_openvino_is_imported_without_opening_a_connection_or_leaving_a_file(tmp_path):
    pytest.importorskip("openvino", reason="no OpenVINO here: `make test-env` brings it")
    quiet = {key: value for key, value in environment().items() if key not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        program("openvino_quietly"),
        env=quiet | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "READY\n"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cuda_flags():
    """torch's switches for CUDA, put back afterwards."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches = [(cuda, "allow_tf32"), (cudnn, "allow_tf32"), (cudnn, "deterministic"), (cudnn, "benchmark")]
    before = [getattr(module, name) for module, name in switches]
    yield lambda: [getattr(module, name) for module, name in switches]
    for (module, name), value in zip(switches, before, strict=True):
        setattr(module, name, value)


def test_ranks_of_a_node_share_out_its_gpus_and_fp32_is_fp32(cuda_flags, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device.open_device(EngineConfig(name="cuda"), local_rank=6) == torch.device("cuda:2")
    assert cuda_flags() == [False, False, True, False]


@pytest.mark.parametrize("precision", ["mixed", "bf16"])
def test_a_gpu_without_bf16_is_refused(monkeypatch, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(DeviceError, match="fp32"):
        device.open_device(EngineConfig(name="cuda", precision=precision), local_rank=0)


@pytest.mark.parametrize(
    ("precision", "has_bf16", "hinted"), [("fp32", True, True), ("fp32", False, False), ("mixed", True, False)]
)
def test_a_faster_precision_is_hinted_at_where_the_hardware_has_it(precision, has_bf16, hinted, monkeypatch):
    monkeypatch.setattr(choice, "instructions", lambda: frozenset({"avx512_bf16" if has_bf16 else "sse"}))
    assert ("mixed" in choice.hint(EngineConfig(name="torch", precision=precision))) == hinted


def test_a_slice_without_a_look_is_what_the_last_layer_says_with_that_looks_weights_at_0(network, study):
    engine = _engine([network], EngineConfig(name="torch"))
    engine.predict(study)
    engine.predict(_rows(study, slice(0, 2)))
    without = engine.without_each()
    assert [len(of_slice[0]) for of_slice in without] == [8, 8]  # of the two slices predicted last
    for look in (0, 5, 6, 7):
        cut = formula_network(WIDTH)
        with torch.no_grad():
            cut.concat_net.weight.view(2, 8, -1)[:, look] = 0.0
        (expected,), _ = _engine([cut], EngineConfig(name="torch")).predict(_rows(study, slice(0, 2)))
        assert without[0][0][look] == pytest.approx(expected.probability, abs=1e-5)


def test_graphs_are_compiled_in_a_thread_beside_who_asks_for_them(monkeypatch, network, study):
    threads = []
    model = openvino.trunk_model

    def noted(*given):
        threads.append(threading.current_thread())
        return model(*given)

    monkeypatch.setattr(openvino, "trunk_model", noted)
    _engine([network], EngineConfig(name="openvino")).predict(study)
    assert len(threads) == 1  # all shapes share one
    assert threading.current_thread() not in threads


def test_denormal_numbers_are_0_which_would_take_a_hundred_times_as_long():
    library = compiled.import_openvino()
    given = library.opset13.parameter([1, 4], np.float32)
    half = library.opset13.multiply(given, library.opset13.constant(np.float32(0.5)))
    graph = compiled.Compiled(library.Model([library.opset13.result(half)], [given]), 1)
    assert graph(np.array([[1e-39, 1e-38, 1.0, -4.0]], np.float32)).tolist() == [[0, 0, 0.5, -2.0]]


def test_a_graph_that_cannot_be_compiled_is_the_devices_fault_and_no_studys(monkeypatch, network, study):
    def broken(*_):
        raise RuntimeError("no such instruction")

    library = compiled.import_openvino()
    monkeypatch.setattr(library.Core, "compile_model", broken)
    engine = _engine([network], EngineConfig(name="openvino"))
    with pytest.raises(DeviceError, match="choose engine = torch"):
        engine.predict(study)


def test_a_graph_that_several_threads_ask_answers_each_its_own():
    library = compiled.import_openvino()
    given = library.opset13.parameter([1, 1000, 1000], np.float32)
    graph = compiled.Compiled(library.Model([library.opset13.result(library.opset13.relu(given))], [given]), 1)
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda number: graph(np.full((1, 1000, 1000), number, np.float32)), range(40))
    assert [(answer.min(), answer.max()) for answer in answers] == [(number, number) for number in range(40)]
