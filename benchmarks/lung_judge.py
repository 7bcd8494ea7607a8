"""The network that judges lung masks, made from nothing: `python benchmarks/lung_judge.py FOLDER OUT.safetensors`.

Draws PHANTOMS synthetic patients, three of four varied, from seed FIRST on into FOLDER (those that are there are kept), and
trains for STEPS steps on one thread. No real scan is used. Other processors may round otherwise, so that a network made
there is as good but not the same to the bit.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from lung_judge_views import FLUID, LESION, LUNG, STORED, view
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from pipeline.phantom import chest
from pipeline.study.lungs.air import body, shrunk
from pipeline.study.lungs.network import AIR_HU, LungNet

LABELS = ("covid", "bacterial", "healthy")
FIRST, PHANTOMS, MATRIX, SLICES = 70_000, 192, 256, 24
"""Seeds of their own: no benchmark and no cohort draws these patients."""
STEPS, BATCH, RATE, DECAY = 1800, 16, 3e-3, 1e-2
WEIGHTS_OF_CLASSES = (1.0, 1.0, 3.0)
"""Lesions are few, and the ones most easily taken for organs."""
SEED = 70
MANY_PX = 100
"""Pixels of lesion from which a slice is drawn more often."""


def phantom(seed):
    """(hu, label, both [S, *STORED]) of one patient."""
    severity = float(np.random.default_rng(seed).uniform(0.05, 1))
    drawn = chest(seed, LABELS[seed % 3], matrix=MATRIX, slices=SLICES, severity=severity, varied=seed % 4 != 0)
    hu = np.stack([shrunk(image, drawn.spacing_mm) for image in drawn.hu])
    label = np.zeros(hu.shape, np.uint8)
    for value, truth in ((LUNG, drawn.lung), (LESION, drawn.lesion & drawn.lung), (FLUID, drawn.effusion)):
        label[smaller(truth, hu.shape[1:])] = value
    middle = middle_of(np.stack([body(image) for image in hu]))
    return cut(hu, middle, AIR_HU), cut(label, middle, 0)


def smaller(masks, shape):
    """Masks at another size: what half of a pixel holds."""
    return np.stack(
        [cv2.resize(mask.astype(np.uint8) * 255, shape[::-1], interpolation=cv2.INTER_AREA) > 127 for mask in masks]
    )


def middle_of(bodies):
    """Row and column of the middle of the box round all bodies."""
    boxes = (np.flatnonzero(bodies.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    return [(int(taken[0]) + int(taken[-1]) + 1) // 2 for taken in boxes]


def cut(stack, middle, fill):
    """`stack` [S, r, c] cut or filled up to STORED round `middle`."""
    far = max(*STORED, *stack.shape[1:])
    wide = np.pad(stack, ((0, 0), (far, far), (far, far)), constant_values=fill)
    top, left = (at + far - size // 2 for at, size in zip(middle, STORED, strict=True))
    return wide[:, top : top + STORED[0], left : left + STORED[1]].copy()


def patients(folder):
    """All of them, drawn where they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(FIRST, FIRST + PHANTOMS):
        path = folder / f"{seed}.npz"
        if not path.exists():
            hu, label = phantom(seed)
            np.savez(path, hu=hu, label=label)
        with np.load(path) as kept:
            yield kept["hu"], kept["label"]


def chances(cohort):
    """(patient, slice) of all slices, and how likely each is drawn: those without lung seldom, with much lesion often."""
    places = [(who, at) for who, (hu, _) in enumerate(cohort) for at in range(len(hu))]
    labels = [cohort[who][1][at] for who, at in places]
    weights = [0.35 if not label.any() else 1.6 if (label == LESION).sum() > MANY_PX else 1.0 for label in labels]
    return places, np.array(weights) / sum(weights)


def batch(step, cohort, places, likely):
    """The views of one step: (planes [N, 6, R, C], labels [N, R, C])."""
    draw = np.random.default_rng([SEED, step])
    picked = [places[at] for at in draw.choice(len(places), BATCH, p=likely)]
    planes, labels = zip(*(view(draw, *cohort[who], at) for who, at in picked), strict=True)
    return torch.from_numpy(np.stack(planes)), torch.from_numpy(np.stack(labels).astype(np.int64))


def loss_of(logits, labels):
    """Cross entropy of the classes and what Dice of lung, lesions in, lacks of 1."""
    entropy = cross_entropy(logits, labels, weight=torch.tensor(WEIGHTS_OF_CLASSES))
    lung = logits.softmax(1)[:, LUNG:].sum(1)
    truth = (labels > 0).float()
    dice = (2 * (lung * truth).sum((1, 2)) + 50) / (lung.sum((1, 2)) + truth.sum((1, 2)) + 50)
    return entropy + (1 - dice).mean()


def trained(cohort):
    """The network after STEPS steps; bf16 only makes training faster."""
    torch.manual_seed(5)
    places, likely = chances(cohort)
    net = LungNet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS, pct_start=0.08)
    for step in range(STEPS):
        planes, labels = batch(step, cohort, places, likely)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(planes.to(memory_format=torch.channels_last))
        loss = loss_of(logits.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    return net


def main():
    """Make the patients and the network."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    folder, out = map(Path, sys.argv[1:])
    net = trained(list(patients(folder)))
    save(net, out)


def save(net, out):
    """All parameters and norms in fp32."""
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, out)


if __name__ == "__main__":
    main()
