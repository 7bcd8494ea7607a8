"""Where a box of the network's picture lies in the stored image. Padded pixels never leave drenet/network.py.

A network may look at a detail that reaches over the picture's border: what is told of it is the part within.
"""

from __future__ import annotations

from pipeline.records import Affine, Box


def to_original(box: Box, crop: Box, image_px: int, affine: Affine) -> Box:
    """A box of the network's picture, in the stored image's pixels: undo the resize, the crop, then the orientation."""
    scale_y = (crop.bottom - crop.top) / image_px
    scale_x = (crop.right - crop.left) / image_px
    corners = [(crop.top + y * scale_y, crop.left + x * scale_x) for y, x in ((box.top, box.left), (box.bottom, box.right))]
    a, b, c, d, e, f = affine
    rows = sorted(a * y + b * x + c for y, x in corners)
    columns = sorted(d * y + e * x + f for y, x in corners)
    return Box(rows[0], columns[0], rows[1], columns[1])


def within(box: Box, image_px: int) -> Box:
    """The part of a box that lies in the picture."""
    top, left, bottom, right = (min(max(edge, 0.0), float(image_px)) for edge in (box.top, box.left, box.bottom, box.right))
    return Box(top, left, bottom, right)
