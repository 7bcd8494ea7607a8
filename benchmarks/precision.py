"""How far a faster engine moves the numbers of torch in fp32: the second table of docs/performance.md.

    python benchmarks/precision.py [CHECKPOINT] [ENGINE:PRECISION ...]

Twice: with the boxes forced to be those of the reference, which is rounding alone; and with the boxes that the engine chooses
itself, where near-tied proposals may swap. Without a checkpoint the weights are formula-made and the scores mean nothing:
repeat it with the weights you use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from phantom_studies import dealt_studies

from pipeline.archive import Decoder, read_volume
from pipeline.config import Config, EngineConfig
from pipeline.records import DealtStudy, PreparedStudy
from pipeline.study.anchors import N_LARGE, N_SMALL
from pipeline.study.drenet import DreNet, formula_network, load_checkpoint
from pipeline.study.drenet.checkpoint import kept_of
from pipeline.study.engine.by_slice import BySlice
from pipeline.study.engine.device import open_device
from pipeline.study.engine.fast import fast_network, planes
from pipeline.study.engine.one_pass import N_SMALL_ANCHORS
from pipeline.study.engine.openvino import CompiledTrunk
from pipeline.study.engine.shown import anchors_in_lung, lung_integral
from pipeline.study.lungs import lung_masks
from pipeline.study.slices import choose_slices, prepare

N_STUDIES = 4
ENGINES = [("torch", "mixed"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "mixed"), ("openvino", "bf16")]


Said = Callable[..., tuple[float, np.ndarray]]
"""(image, zoom, anchors in lung, forced anchors or None) of a slice -> its probability, the anchors of its details."""


class Scores(NamedTuple):
    """One study: a probability and six anchors a slice."""

    probability: np.ndarray
    boxes: np.ndarray


def main() -> None:
    """Print, for every engine, forced and own boxes: slice and patient changes, and boxes that were replaced."""
    engines = [tuple(word.split(":")) for word in sys.argv[1:] if ":" in word] or ENGINES
    checkpoints = [word for word in sys.argv[1:] if ":" not in word]
    network = load_checkpoint(checkpoints[0]) if checkpoints else formula_network()
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "archive"
        dealt = dealt_studies(archive, studies=N_STUDIES, matrix=256, slices=40)
        studies = [prepared(archive, study) for study in dealt]
    reference = scored(network, ("torch", "fp32"), studies, [None] * N_STUDIES)
    forced = [study.boxes for study in reference]
    spread = np.concatenate([study.probability for study in reference])
    print(f"reference: {len(spread)} slices of {N_STUDIES} studies, probability {spread.min():.3f}..{spread.max():.3f}")
    for engine in engines:
        for how, boxes in (("boxes forced equal", forced), ("own boxes", [None] * N_STUDIES)):
            print(f"{' '.join(engine)}, {how}: {compared(reference, scored(network, engine, studies, boxes))}")


def prepared(archive: Path, dealt: DealtStudy) -> PreparedStudy:
    """The slices that a network would see of one study."""
    config, series = Config(), dealt.study.candidates[0]
    volume = read_volume(archive, series, choose_slices([s.z_mm for s in series.slices], config.slices), Decoder())
    masks = lung_masks(volume.hu, volume.z_mm, volume.spacing_mm, config.lung.recipe)
    return prepare(volume, masks, series.seed, config)


def scored(
    network: DreNet, engine: tuple[str, str], studies: list[PreparedStudy], boxes: list[np.ndarray | None]
) -> list[Scores]:
    """Every study by one engine, slice by slice."""
    config = EngineConfig(name=engine[0], precision=engine[1])
    said = (said_by_openvino if engine[0] == "openvino" else said_by_torch)(network, config)
    result = []
    for study, forced in zip(studies, boxes, strict=True):
        in_lung = [anchors_in_lung(lung_integral(lung)) for lung in study.lung]
        given = zip(study.images, study.zoom, in_lung, [None] * len(in_lung) if forced is None else forced, strict=True)
        probability, anchors = zip(*(said(*each) for each in given), strict=True)
        result.append(Scores(np.array(probability), np.stack(anchors)))
    return result


def said_by_openvino(network: DreNet, config: EngineConfig) -> Said:
    """A slice's probability and the anchors of its details, which may be forced."""
    kept = kept_of(network)
    by_slice = BySlice(kept, CompiledTrunk(kept, config))

    def said(*given: Any) -> tuple[float, np.ndarray]:
        looked = by_slice(*given)
        return looked.probability, looked.anchors

    return said


def said_by_torch(network: DreNet, config: EngineConfig) -> Said:
    """The same."""
    device = open_device(config, 0)
    fast = fast_network(network, config, device)
    first_large = np.repeat([0, N_SMALL_ANCHORS], (N_SMALL, N_LARGE))

    @torch.inference_mode()
    def said(
        image: np.ndarray, zoom: np.ndarray, in_lung: np.ndarray, forced: np.ndarray | None
    ) -> tuple[float, np.ndarray]:  # fmt: skip
        image_, zoom_ = (planes(torch.from_numpy(grey[None]).to(device)) for grey in (image, zoom))
        index = None if forced is None else torch.from_numpy((forced - first_large)[None]).to(device)
        output = fast(image_, zoom_, index, torch.from_numpy(in_lung[None]).to(device))
        probability = output.concat_logits.softmax(1)[0, network.metadata.positive]
        return float(probability), output.detail_index[0].cpu().numpy() + first_large

    return said


def compared(reference: list[Scores], other: list[Scores]) -> str:
    """The changes of slices and patients, in words."""
    pairs = list(zip(reference, other, strict=True))
    slices = np.abs(np.concatenate([a.probability - b.probability for a, b in pairs]))
    patients = np.abs([a.probability.mean() - b.probability.mean() for a, b in pairs])
    swapped = sum(n_replaced(one, two) for a, b in pairs for one, two in zip(a.boxes, b.boxes, strict=True))
    return (
        f"slice max {slices.max():.4f} median {np.median(slices):.4f}; patient max {patients.max():.4f} "
        f"median {np.median(patients):.4f}; {swapped} of {6 * len(slices)} boxes replaced"
    )


def n_replaced(one: np.ndarray, two: np.ndarray) -> int:
    """How many of a slice's six boxes are not among the other's, whatever their order."""
    return len(set(two[:3]) - set(one[:3])) + len(set(two[3:]) - set(one[3:]))


if __name__ == "__main__":
    main()
