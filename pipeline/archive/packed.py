"""All slices of a series as few bytes: column by column, numbers as steps from one slice to the next, and deflated.

A series has hundreds of slices, of which screening reads fifteen; the manifest must hold the addresses of all, in case the
places are chosen again. Nothing is rounded: what is unpacked is what was packed.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Literal

import msgspec
import numpy as np

from pipeline.records import Series, SliceSource

OF_SLICE = attrgetter(*SliceSource.__struct_fields__)
Column = tuple[Literal["same", "whole", "real", "each"], list[Any]]


class _Table(msgspec.Struct, array_like=True):
    n_slices: int
    columns: list[Column]


def pack(slices: Sequence[SliceSource]) -> bytes:
    """The slices as bytes; `unpack` is the way back."""
    columns = [_column(list(values)) for values in zip(*map(OF_SLICE, slices), strict=True)]
    return zlib.compress(msgspec.msgpack.encode(_Table(len(slices), columns)))


def unpack(data: bytes) -> tuple[SliceSource, ...]:
    """The slices that `pack` made bytes of."""
    table = msgspec.msgpack.decode(zlib.decompress(data), type=_Table)
    columns = [_values(kind, said, table.n_slices) for kind, said in table.columns]
    return tuple(SliceSource(*row) for row in zip(*columns, strict=True))


def every_slice(series: Series) -> tuple[SliceSource, ...]:
    """All slices of a series of the manifest; those that are read where an older version wrote it."""
    return unpack(series.packed) if series.packed else series.slices


def _column(values: list[Any]) -> Column:
    first = values[0]
    if values.count(first) == len(values) and (first or not isinstance(first, float)):
        return "same", values[:1]
    kinds = set(map(type, values))
    if kinds == {float}:
        bits = np.array(values).view(np.int64)  # differences of floats would be rounded; those of their bits are not
        return ("same", values[:1]) if (bits == bits[0]).all() else ("real", _steps(bits))  # 0.0 equals -0.0 and is another
    return ("whole", _steps(np.array(values, np.int64))) if kinds == {int} else ("each", values)


def _values(kind: str, said: list[Any], n_slices: int) -> list[Any]:
    if kind == "same":
        return said * n_slices
    if kind == "each":
        return said
    whole = np.cumsum(np.array(said, np.int64))
    return list((whole.view(np.float64) if kind == "real" else whole).tolist())


def _steps(whole: Any) -> list[int]:
    """From one number to the next, the first from 0; what overflows comes back the same way."""
    return [*whole[:1].tolist(), *(whole[1:] - whole[:-1]).tolist()]
