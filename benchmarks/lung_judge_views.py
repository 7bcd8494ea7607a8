"""What the judge of lung masks is shown while it learns: a phantom's slice and neighbours, changed as scans and people differ.

Every function takes `draw`, a numpy Generator; `stack` is HU float32 [3, R, C], the slice first, then those below and above;
`label` uint8 [3, R, C] is REST, LUNG or LESION. Both are changed in place where nothing is returned.
"""

import cv2
import numpy as np
from lung_net import seen_by_network

from pipeline.study.lungs.network import AIR_HU, SIZE

REST, LUNG, LESION, FLUID = range(4)
RULES = 8
"""Added to the label of what the rules take for lung."""
SOFT_HU = -300
"""HU above which tissue is soft, and the rules may err."""
OUTLINE = np.ones((3, 3), np.uint8)
"""Pixels: what is thinner lies at the outline."""
LET_IN, REFUSED = 4.0, 2.0
"""How much more a pixel of soft tissue weighs that the rules take for lung and is none, and one that is and they refuse."""
STORED = (160, 192)
"""Pixels of the pictures that are kept of a phantom: more than SIZE, so that turned ones have no empty corners."""
ROWS, COLUMNS = SIZE
Y, X = np.mgrid[:ROWS, :COLUMNS].astype(np.float32)


def view(draw, hu, label, place, *, late):
    """One view of the slice at `place` of a phantom, hu and label [S, *STORED]; LATE changes are made `late` in training.

    (Planes for the network, labels [R, C], what each pixel weighs [R, C]).
    """
    near = neighbours(draw, len(hu), place)
    moved = warp(draw)
    edge = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": AIR_HU}
    stack = np.stack([cv2.remap(hu[at], *moved, cv2.INTER_LINEAR, **edge) for at in near]).astype(np.float32)
    label = np.stack([cv2.remap(label[at], *moved, cv2.INTER_NEAREST) for at in near])
    rules = label[0] >= RULES
    label %= RULES
    label[label == FLUID] = REST
    if draw.random() < 0.06:
        lung = label[0] > 0
        white_out(draw, stack, label)
        rules &= ~lung | (label[0] > 0)  # solid without a sign: no lung by decree, and no more wrong than the reverse
    for share, change in CHANGES + LATE * late:
        if draw.random() < share:
            change(draw, stack, label)
    weights = weights_of(rules, label[0], stack[0])
    stack = grey(draw, stack)
    if draw.random() < 0.3:
        cut_field(draw, stack, label)
    return seen_by_network(stack), label[0], weights


def weights_of(rules, label, hu):
    """1, and more where the tissue is soft and the rules err by more than an outline [R, C]."""
    soft = cv2.blur(hu, (3, 3)) > SOFT_HU
    weights = np.ones(label.shape, np.float32)
    for weight, wrong in ((LET_IN, rules & (label == REST)), (REFUSED, ~rules & (label != REST))):
        weights[cv2.morphologyEx((soft & wrong).astype(np.uint8), cv2.MORPH_OPEN, OUTLINE) > 0] = weight
    return weights


def neighbours(draw, n_slices, place):
    """The place itself, one below and one above, one to three slices apart; itself again at the ends and now and then."""
    step = int(draw.choice([1, 1, 2, 2, 3]))
    near = [place, place - step, place + step]
    near = [place if at < 0 or at >= n_slices or draw.random() < 0.15 else at for at in near]
    return [place] * 3 if draw.random() < 0.12 else near


def smooth(draw, cell_px):
    """Smooth noise [R, C] of about unit spread."""
    coarse = draw.normal(size=(max(3, ROWS // cell_px + 2), max(3, COLUMNS // cell_px + 2))).astype(np.float32)
    return cv2.resize(coarse, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)


def warp(draw):
    """Maps of a random turn, size, mirroring, place and elastic move, for cv2.remap."""
    turn = np.deg2rad(draw.normal(0, 7))
    zoom = np.exp(draw.uniform(-0.28, 0.28))
    aspect = np.exp(draw.normal(0, 0.06))
    x = (X - COLUMNS / 2) * (-1 if draw.random() < 0.15 else 1)
    y = (Y - ROWS / 2) * (-1 if draw.random() < 0.08 else 1)
    cosine, sine = np.cos(turn), np.sin(turn)
    map_x = (cosine * x + sine * y) * zoom * aspect + COLUMNS / 2 + draw.normal(0, 7)
    map_y = (-sine * x + cosine * y) * zoom / aspect + ROWS / 2 + draw.normal(0, 7)
    if draw.random() < 0.7:
        cell_px = int(draw.choice([20, 32, 48]))
        amount = draw.uniform(0.5, 0.11 * cell_px)
        map_x = map_x + amount * smooth(draw, cell_px)
        map_y = map_y + amount * smooth(draw, cell_px)
    to_stored = [(stored - size) / 2 for stored, size in zip(STORED, SIZE, strict=True)]
    return (map_x + to_stored[1]).astype(np.float32), (map_y + to_stored[0]).astype(np.float32)


def white_out(draw, stack, label):
    """One lung is solid: no lung any more."""
    columns = np.flatnonzero((label[0] > 0).any(axis=0))
    if len(columns) < 10:
        return
    on_right = (columns[0] + columns[-1]) / 2 > X
    side = on_right if draw.random() < 0.5 else ~on_right
    hu = draw.uniform(-10, 50)
    for image, labels in zip(stack, label, strict=True):
        gone = side & (labels > 0)
        image[gone] = hu + 8 * smooth(draw, 6)[gone]
        labels[gone] = REST


def pleural(draw, stack, label):
    """Dense lung along a part of the chest wall."""
    depth = cv2.distanceTransform((label[0] > 0).astype(np.uint8), cv2.DIST_L2, 5)
    thick_px = draw.uniform(2, 14) * smooth(draw, int(draw.choice([24, 40])))
    outer = cv2.dilate((stack[0] > 150).astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    where = (depth > 0) & (depth < thick_px) & outer
    texture = lesion_hu(draw, is_dense=draw.random() < 0.8)
    alpha = cv2.GaussianBlur(where.astype(np.float32), (0, 0), draw.uniform(0.4, 1.2))
    for at, labels in enumerate(label):
        share = alpha * (labels == LUNG)
        stack[at] = np.where(stack[at] < texture, stack[at] + share * (texture - stack[at]), stack[at])
        labels[share > 0.4] = LESION


def aorta(draw, stack, label):
    """A descending aorta beside the spine, which may lie deep in the lung, in fat or not."""
    spine = spine_of(stack[0], label[0])
    if spine is None:
        return
    radius = draw.uniform(4.5, 9)
    row = spine[0] + draw.uniform(-14, 6)
    column = spine[1] + draw.uniform(8, 11 + radius)
    hu = draw.uniform(20, 60) if draw.random() < 0.65 else draw.uniform(80, 350)
    fat_px = draw.uniform(-3, 3)
    for image, labels in zip(stack, label, strict=True):
        far = np.hypot(X - column - draw.normal(0, 1), Y - row - draw.normal(0, 1)) - radius
        free = (image < 150) & (labels > 0) | (far < 0)
        fat = (far < fat_px) & free
        image[fat] = -90
        share = cv2.GaussianBlur((far < 0).astype(np.float32), (0, 0), 0.6)
        np.add(image, share * (hu - image), out=image)
        labels[fat | (far < 0)] = REST


def spine_of(hu, label):
    """(row, column) of the vertebra behind and between the lungs; None where there is none."""
    rows, columns = np.nonzero(label > 0)
    if not len(rows):
        return None
    middle = (columns.min() + columns.max()) / 2
    far = (columns.max() - columns.min()) / 6
    bone = (hu > 150) & (np.abs(X - middle) < far) & (np.median(rows) < Y)
    if bone.sum() < 40:
        return None
    top = np.flatnonzero(bone.sum(axis=1) > 3)
    return (top[0] + 6, float(X[bone].mean())) if len(top) else None


def between_lungs(draw, stack, label):
    """(row, column) of soft tissue between the lungs; None where there is none."""
    columns = np.flatnonzero((label[0] > 0).any(axis=0))
    if len(columns) < 10:
        return None
    quarter = (columns[-1] - columns[0]) / 4
    central = (columns[0] + quarter < X) & (columns[-1] - quarter > X)
    rows, columns = np.nonzero(central & (label[0] == REST) & (stack[0] > -20) & (stack[0] < 150))
    if not len(rows):
        return None
    at = draw.integers(len(rows))
    return rows[at], columns[at]


def vessels(draw, stack, label):
    """Contrast in chambers of the heart and in great vessels."""
    for _ in range(int(draw.integers(1, 4))):
        middle = between_lungs(draw, stack, label)
        if middle is None:
            return
        inside = ellipse(draw, middle[1], middle[0]) < draw.uniform(0.8, 2.5)
        hu = np.exp(draw.uniform(np.log(60), np.log(400)))
        for image, labels in zip(stack, label, strict=True):
            share = cv2.GaussianBlur((inside & (labels == REST) & (image > -20)).astype(np.float32), (0, 0), 0.8)
            np.add(image, share * (labels == REST) * (hu - image), out=image)


def bulge(draw, stack, label):
    """Heart, aorta or vessel of the hilum that reaches into the lung."""
    middle = between_lungs(draw, stack, label)
    if middle is None:
        return
    far = ellipse(draw, middle[1], middle[0])
    hu = draw.uniform(20, 60) if draw.random() < 0.6 else draw.uniform(80, 350)
    for image, labels in zip(stack, label, strict=True):
        inside = far < draw.uniform(0.8, 1.2)
        share = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.6) * (image < hu)
        np.add(image, share * (hu + 5 * draw.standard_normal() - image), out=image)
        labels[inside] = REST


def disease(draw, stack, label):
    """Patches, a lobe or a mass in the lung, alike in all slices, hazy or dense, with bronchi or without."""
    kind = draw.choice(["patches", "lobe", "mass"], p=[0.5, 0.3, 0.2])
    where = mass_shape(draw, label[0]) if kind == "mass" else patch_shape(draw, label[0], kind)
    if where is None:
        return
    alpha = cv2.GaussianBlur(where.astype(np.float32), (0, 0), draw.uniform(0.4, 1.5))
    texture = lesion_hu(draw, is_dense=kind != "patches" or draw.random() < 0.5)
    for at, labels in enumerate(label):
        share = alpha * (labels == LUNG)
        stack[at] = np.where(stack[at] < texture, stack[at] + share * (texture - stack[at]), stack[at])
        labels[share > 0.4] = LESION


def mass_shape(draw, labels):
    """A roundish mass somewhere in the lung; None where there is none."""
    rows, columns = np.nonzero(labels == LUNG)
    if not len(rows):
        return None
    at = draw.integers(len(rows))
    radius_px = np.exp(draw.uniform(np.log(4), np.log(18)))
    return np.hypot(X - columns[at], Y - rows[at]) * np.exp(0.2 * smooth(draw, 10)) < radius_px


def patch_shape(draw, labels, kind):
    """A part of the lung, more of it in front or behind; None where there is no lung."""
    cell_px = int(draw.choice([8, 12, 20]) if kind == "patches" else draw.choice([32, 44]))
    field = smooth(draw, cell_px) + 0.3 * smooth(draw, 6)
    field += draw.uniform(-1, 1) * (Y - ROWS / 2) / ROWS * 4
    inside = labels > 0
    return field > np.quantile(field[inside], draw.uniform(0.4, 0.95)) if inside.any() else None


def lesion_hu(draw, *, is_dense):
    """What a lesion measures [R, C]."""
    hu = draw.uniform(-10, 70) if is_dense else draw.uniform(-650, -50)
    texture = hu + draw.uniform(2, 25 if is_dense else 80) * smooth(draw, 4)
    if draw.random() < 0.5:
        grain = draw.standard_normal((ROWS // 2, COLUMNS // 2), dtype=np.float32)
        bronchi = cv2.resize(grain, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC) > draw.uniform(1.6, 2.8)
        texture = np.where(bronchi, draw.uniform(-950, -400), texture)
    return texture


def bullae(draw, stack, label):
    """Parts of the lung nearly as dark as air."""
    field = smooth(draw, int(draw.choice([10, 20, 40])))
    where = field > np.quantile(field, draw.uniform(0.3, 0.9))
    hu = draw.uniform(-985, -900)
    alpha = cv2.GaussianBlur(where.astype(np.float32), (0, 0), 1.0) * draw.uniform(0.5, 1)
    for image, labels in zip(stack, label, strict=True):
        np.add(image, alpha * ((labels == LUNG) & (image < -600)) * (hu - image), out=image)


def bowel(draw, stack, label):
    """Gas, stool, contrast or fluid in soft tissue that is no lung."""
    for _ in range(int(draw.integers(1, 4))):
        rows, columns = np.nonzero((label[0] == REST) & (stack[0] > -20) & (stack[0] < 250))
        if not len(rows):
            return
        at = draw.integers(len(rows))
        far = ellipse(draw, columns[at], rows[at])
        kinds = [draw.uniform(*ends) for ends in ((-1010, -940), (-800, -300), (40, 300), (-40, 60))]
        hu = draw.choice(kinds, p=[0.3, 0.1, 0.3, 0.3])
        for image, labels in zip(stack, label, strict=True):
            inside = (far < draw.uniform(0.7, 1.1)) & (labels == REST) & (image > -200)
            share = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.6) * (labels == REST)
            np.add(image, share * (hu - image), out=image)


def ellipse(draw, column, row):
    """Squared distance from there in half axes of 2 to 16 pixels, with a ragged edge [R, C]."""
    wide, deep = np.exp(draw.uniform(np.log(2), np.log(16), 2))
    turn = draw.uniform(0, np.pi)
    x, y = X - column, Y - row
    along = (np.cos(turn) * x + np.sin(turn) * y) / wide
    across = (-np.sin(turn) * x + np.cos(turn) * y) / deep
    return (along**2 + across**2) * np.exp(0.25 * smooth(draw, 10))


def grey(draw, stack):
    """`stack` as another scanner would show it: scale, offset, the lung's density, contrast, kernel, noise."""
    stack = stack * np.float32(draw.normal(1, 0.02))
    stack += np.clip(-stack / 600, 0, 1) * np.float32(draw.uniform(-70, 110)) * (stack > -960)
    stack += np.float32(draw.normal(0, 12)) + np.float32(abs(draw.normal(0, 10))) * smooth(draw, 40)
    if draw.random() < 0.25:
        stack = np.where(stack > 20, 20 + (stack - 20) * np.float32(np.exp(draw.uniform(-0.7, 0.9))), stack)
    stack = kernel(draw, stack)
    return (noisy(draw, stack) if draw.random() < 0.8 else stack).astype(np.float32)


def kernel(draw, stack):
    """Blurred, sharpened or as it is."""
    turn = draw.random()
    if turn < 0.45:
        sigma_px = draw.uniform(0.3, 1.2)
        return np.stack([cv2.GaussianBlur(image, (0, 0), sigma_px) for image in stack])
    if turn < 0.65:
        sigma_px = draw.uniform(0.6, 1.2)
        amount = draw.uniform(0.3, 1.5)
        return np.stack([image + amount * (image - cv2.GaussianBlur(image, (0, 0), sigma_px)) for image in stack])
    return stack


def noisy(draw, stack):
    """4 to 70 HU of noise, fine or coarse."""
    level_hu = np.exp(draw.uniform(np.log(4), np.log(70)))
    sigma_px = float(draw.choice([0, 0.6, 1.0]))
    grain = draw.standard_normal(stack.shape, dtype=np.float32)
    if sigma_px:
        grain = np.stack([cv2.GaussianBlur(image, (0, 0), sigma_px) for image in grain])
        grain /= grain[0].std()
    return stack + grain * np.float32(level_hu)


def cut_field(draw, stack, label):
    """Nothing beyond a circle, which may cut the chest."""
    outside = np.hypot(X - COLUMNS / 2 - draw.normal(0, 6), Y - ROWS / 2 - draw.normal(0, 6)) > draw.uniform(62, 90)
    stack[:, outside] = AIR_HU
    label[:, outside] = REST


CHANGES = ((0.3, vessels), (0.5, disease), (0.12, bulge), (0.2, bullae), (0.25, bowel))
"""How often each change is made."""
LATE = ((0.45, aorta), (0.2, pleural))
"""Those that came to be made late in training, after a look at what it lacked."""
