"""How far a faster engine moves the numbers of torch in fp32: the second table of docs/performance.md.

    python benchmarks/precision.py [CHECKPOINT]

Twice: with the boxes forced to be those of the reference, which is rounding alone; and with the boxes that the engine chooses
itself, where near-tied proposals may swap. Without a checkpoint the weights are formula-made and the scores mean nothing:
repeat it with the weights you use.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from phantom_studies import dealt_studies

from pipeline.archive import Decoder, read_volume
from pipeline.config import Config, EngineConfig
from pipeline.infer.device import open_device
from pipeline.infer.fast import fast_network, planes
from pipeline.lung import lung_masks
from pipeline.model import DreNet, formula_network, load_checkpoint
from pipeline.preprocess import choose_slices, prepare
from pipeline.records import DealtStudy, PreparedStudy

N_STUDIES = 4
COMPARED = [("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16")]


class Scores(NamedTuple):
    """One study: a probability and six box numbers a slice."""

    probability: np.ndarray
    boxes: np.ndarray


def main() -> None:
    """Print, for every engine, forced and own boxes: slice and patient changes, and boxes that were replaced."""
    network = load_checkpoint(sys.argv[1]) if len(sys.argv) > 1 else formula_network()
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "archive"
        dealt = dealt_studies(archive, studies=N_STUDIES, matrix=256, slices=40)
        studies = [prepared(archive, study) for study in dealt]
    reference = scored(network, ("torch", "fp32"), studies, [None] * N_STUDIES)
    forced = [study.boxes for study in reference]
    spread = np.concatenate([study.probability for study in reference])
    print(f"reference: {len(spread)} slices of {N_STUDIES} studies, probability {spread.min():.3f}..{spread.max():.3f}")
    for engine in COMPARED:
        for how, boxes in (("boxes forced equal", forced), ("own boxes", [None] * N_STUDIES)):
            print(f"{' '.join(engine)}, {how}: {compared(reference, scored(network, engine, studies, boxes))}")


def prepared(archive: Path, dealt: DealtStudy) -> PreparedStudy:
    """The slices that a network would see of one study."""
    config, series = Config(), dealt.study.candidates[0]
    volume = read_volume(archive, series, choose_slices([s.z_mm for s in series.slices], config.slices), Decoder())
    masks = lung_masks(volume.hu, volume.z_mm, volume.spacing_mm, config.lung.recipe)
    return prepare(volume, masks, series.seed, config)


@torch.inference_mode()
def scored(
    network: DreNet, engine: tuple[str, str], studies: list[PreparedStudy], boxes: list[np.ndarray | None]
) -> list[Scores]:
    """Every study by one engine, slice by slice as in a run."""
    config = EngineConfig(name=engine[0], precision=engine[1])
    fast = fast_network(network, config, open_device(config, 0))
    result = []
    for study, forced in zip(studies, boxes, strict=True):
        outputs = []
        for row in range(len(study.images)):
            image, zoom = (planes(torch.from_numpy(stack[row : row + 1])) for stack in (study.images, study.zoom))
            outputs.append(fast(image, zoom, None if forced is None else torch.from_numpy(forced[row : row + 1])))
        probability = torch.cat([o.concat_logits for o in outputs]).softmax(1)[:, network.metadata.positive]
        result.append(Scores(probability.numpy(), torch.cat([o.detail_index for o in outputs]).numpy()))
    return result


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
