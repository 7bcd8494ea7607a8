"""The network that judges lung masks, made from nothing: `python benchmarks/lung_judge.py FOLDER OUT.safetensors`.

Draws PHANTOMS synthetic patients, three of four varied, from seed FIRST on into FOLDER (those that are there are kept), with
what the rules take for lung in them, and trains for STEPS steps on one thread, most where the rules err. No real scan is
used. Other processors may round otherwise, so that a network made there is as good but not the same to the bit.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from lung_judge_views import FLUID, LESION, LUNG, RULES, STORED, view, weights_of
from lung_net import LungNet
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from pipeline.phantom import chest
from pipeline.study.engine.choice import has_bf16
from pipeline.study.lungs import seen
from pipeline.study.lungs.air import lung_air
from pipeline.study.lungs.field import WALL_PX
from pipeline.study.lungs.network import AIR_HU
from pipeline.study.lungs.wall import closed_lungs

LABELS = ("covid", "bacterial", "healthy")
FIRST, PHANTOMS, MATRIX, SLICES = 70_000, 480, 256, 24
"""Seeds of their own: no benchmark and no cohort draws these patients."""
STEPS, RISING, FALLING = 10_250, 200, 1_500
LATE_FROM = 6_000
"""The step from which views are changed as LATE says too."""
BATCH, RATE, DECAY = 8, 2e-3, 1e-2
WEIGHTS_OF_CLASSES = (1.0, 1.0, 3.0)
"""Lesions are few, and the ones most easily taken for organs."""
SEED = 70
SELDOM, OFTEN = 0.35, (1.0, 1.6, 2.6)
"""How likely slices with little lung are drawn, and those with none, one or two reasons to draw them often."""
LITTLE_PX = 800
"""Pixels of lung, 32 cm2, below which a slice shows little: it is hardly ever kept."""
MANY_PX = 100
"""Pixels of lesion that are a reason."""
ERRING_PX = 25
"""Pixels, in pieces thicker than 8 mm, on which the rules err, that are one too."""


def phantom(seed):
    """(hu, label, both [S, *STORED]) of one patient; the label says too what the rules take for lung."""
    severity = float(np.random.default_rng(seed).uniform(0.05, 1))
    drawn = chest(seed, LABELS[seed % 3], matrix=MATRIX, slices=SLICES, severity=severity, varied=seed % 4 != 0)
    hu, bodies = seen(drawn.hu, drawn.spacing_mm)
    rules = closed_lungs(lung_air(hu, bodies, drawn.z_mm), hu, bodies, drawn.z_mm)
    label = np.zeros(hu.shape, np.uint8)
    for value, truth in ((LUNG, drawn.lung), (LESION, drawn.lesion & drawn.lung), (FLUID, drawn.effusion)):
        label[walled_truth(truth, hu.shape[1:])] = value
    middle = middle_of(bodies)
    return cut(hu, middle, AIR_HU), cut(label | rules * np.uint8(RULES), middle, 0)


def walled_truth(masks, shape):
    """Masks as the rules see slices: smaller, what half of a pixel holds, and with the frame in which a wall may be drawn."""
    size = tuple(n - 2 * WALL_PX for n in shape[::-1])
    small = [cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 127 for mask in masks]
    return np.stack([np.pad(mask, WALL_PX) for mask in small])


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
    """(patient, slice) of all slices, and how likely each is drawn."""
    places = [(who, at) for who, (hu, _) in enumerate(cohort) for at in range(len(hu))]
    weights = [chance(cohort[who][0][at], cohort[who][1][at]) for who, at in places]
    return places, np.array(weights) / sum(weights)


def chance(hu, label):
    """Slices with little lung are drawn seldom, those with much lesion, or on which the rules err, often."""
    truth = label % RULES
    if (truth > 0).sum() < LITTLE_PX:
        return SELDOM
    wrong = weights_of(label >= RULES, truth * (truth != FLUID), hu) > 1
    errs = cv2.morphologyEx(wrong.astype(np.uint8), cv2.MORPH_OPEN, np.ones((4, 4), np.uint8)).sum() > ERRING_PX
    return OFTEN[int((truth == LESION).sum() > MANY_PX) + int(errs)]


def batch(step, cohort, places, likely):
    """The views of one step: (planes [N, 6, R, C], labels [N, R, C], weights [N, R, C])."""
    draw = np.random.default_rng([SEED, step])
    picked = [places[at] for at in draw.choice(len(places), BATCH, p=likely)]
    views = [view(draw, *cohort[who], at, late=step >= LATE_FROM) for who, at in picked]
    planes, labels, weights = map(np.stack, zip(*views, strict=True))
    return torch.from_numpy(planes), torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(weights)


def loss_of(logits, labels, weights):
    """Cross entropy of the classes, each pixel with its weight, and what Dice of lung, lesions in, lacks of 1."""
    weights = weights * torch.tensor(WEIGHTS_OF_CLASSES)[labels]
    entropy = (cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
    lung = logits.softmax(1)[:, LUNG:].sum(1)
    truth = (labels > 0).float()
    dice = (2 * (lung * truth).sum((1, 2)) + 50) / (lung.sum((1, 2)) + truth.sum((1, 2)) + 50)
    return entropy + (1 - dice).mean()


def rate(step):
    """Share of RATE: it rises at first, stays, and falls to nothing over the last steps."""
    return min(1.0, (step + 1) / RISING, (STEPS - step) / FALLING)


def trained(cohort, half_way):
    """The network after STEPS steps; what is interrupted goes on from `half_way`.

    bf16 only makes training faster, and only where the processor has it.
    """
    torch.manual_seed(5)
    places, likely = chances(cohort)
    net = LungNet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(resumed(half_way, net, optimiser), STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * rate(step)
        loss = stepped(net, optimiser, batch(step, cohort, places, likely))
        if step % 250 == 249:
            print(f"step {step + 1}: loss {loss:.3f}", flush=True)
            torch.save({"step": step + 1, "net": net.state_dict(), "optimiser": optimiser.state_dict()}, half_way)
    return net


def resumed(half_way, net, optimiser):
    """The step to go on from: the first, or the one that training was kept at."""
    if not half_way.exists():
        return 0
    kept = torch.load(half_way)
    net.load_state_dict(kept["net"])
    optimiser.load_state_dict(kept["optimiser"])
    return kept["step"]


def stepped(net, optimiser, views):
    """One step of training; its loss."""
    planes, labels, weights = views
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16("torch")):
        logits = net(planes.to(memory_format=torch.channels_last))
    loss = loss_of(logits.float(), labels, weights)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
    optimiser.step()
    return loss.item()


def main():
    """Make the patients and the network."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    folder, out = map(Path, sys.argv[1:])
    save(trained(list(patients(folder)), folder / "half-way.pt"), out)


def save(net, out):
    """All parameters and norms in fp32."""
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, out)


if __name__ == "__main__":
    main()
