"""The part of a float graph that a UperNet is, in either layout of tokens.

1. What multiplies pixel by pixel (Linear layers, 1×1 and transposed convolutions) is a GEMM over rows, as in the
   backbone: a transposed convolution without overlap makes a square of each row. Maps [B, C, h, w] stand only between
   GEMMs.
   A ReLU behind one follows the Reshape, since ONNX Runtime takes Gemm and Relu together into a float kernel.
2. 3×3 convolutions are Conv, each with a Relu behind. Both are sites.
3. Adaptive average pooling at a fixed size is a product with a constant matrix: its windows differ in size wherever the
   cells do not divide the map, which no pooling operator can say.
4. Maps are resized by factors, since ONNX Runtime moves Transpose over a Resize of `sizes` and loses them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn

from ..model.network import NetworkConfig
from ..model.upernet import UperNet

__all__ = ["build_upernet"]


class Builder(Protocol):
    """What a UperNet is appended to: see `GraphBuilder`, whose methods these are."""

    config: NetworkConfig
    output: str

    def linear(self, site: str, x: ir.Value) -> ir.Value: ...

    def convolution(self, name: str, x: ir.Value, conv: nn.Module) -> ir.Value: ...

    def pixels(
        self, x: ir.Value, size: tuple[int, int], channels: int, name: str, *, relu: str | None = None
    ) -> ir.Value: ...

    def rows(self, x: ir.Value, size: tuple[int, int], channels: int, name: str) -> ir.Value: ...

    def squares(
        self, x: ir.Value, size: tuple[int, int], channels: int, name: str, *, as_rows: bool, relu: str
    ) -> ir.Value: ...

    def reshape(self, x: ir.Value, shape: Sequence[int], name: str) -> ir.Value: ...

    def constant(self, name: str, array: np.ndarray | np.generic) -> ir.Value: ...

    def op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, object] | None = None,
        *,
        name: str,
        output: str | None = None,
    ) -> ir.Value: ...


def build_upernet(builder: Builder, head: UperNet, levels: Sequence[ir.Value]) -> ir.Value:
    """Append a UperNet whose BatchNorms are folded.

    Args:
        levels: rows of image tokens after each of the blocks that it reads, normed.

    Returns:
        Logits [B, classes, height, width].
    """
    return _UperNet(builder, head).logits(levels)


class _UperNet:
    """Appends to a `Builder`; each method returns the value that it makes."""

    def __init__(self, builder: Builder, head: UperNet) -> None:
        self.builder, self.head, self.width = builder, head, builder.config.head_width

    def logits(self, levels: Sequence[ir.Value]) -> ir.Value:
        builder, head = self.builder, self.head
        rows = [builder.linear(f"head.reads.{i}", x) for i, x in enumerate(levels)]
        (h, w), C = head.grid, self.width
        sizes = [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), (h // 2, w // 2)]
        laterals = head.laterals
        twice = self.up("head.laterals.0.0", rows[0], laterals.get_submodule("0.0"), sizes[2], as_rows=True)
        pooling = {"kernel_shape": [2, 2], "strides": [2, 2]}
        maps = [
            self.up("head.laterals.0.1", twice, laterals.get_submodule("0.1"), sizes[1]),
            self.up("head.laterals.1", rows[1], laterals.get_submodule("1"), sizes[2]),
            self.pointwise("head.laterals.2", rows[2], laterals.get_submodule("2"), sizes[2]),
            builder.op(
                "MaxPool", [builder.pixels(rows[3], sizes[2], C, "head.reads.3.map")], pooling, name="head.laterals.3"
            ),
        ]
        last = maps[-1]
        pooled = [self.pool(i, last, sizes[-1]) for i in range(len(head.pools))]
        maps[-1] = self.conv("head.pyramid", self.concat([last, *pooled], "head.pyramid.concat"), head.pyramid)
        for i in reversed(range(len(maps) - 1)):
            coarser = self.resize(maps[i + 1], sizes[i + 1], sizes[i], f"head.down.{i}")
            maps[i] = builder.op("Add", [maps[i], coarser], name=f"head.add.{i}")
        smooth = [self.conv(f"head.smooths.{i}", maps[i], conv) for i, conv in enumerate(head.smooths)]
        same = [smooth[0]]
        for i, x in enumerate((*smooth[1:], maps[-1]), 1):
            same.append(self.resize(x, sizes[i], sizes[0], f"head.fine.{i}"))
        fused = self.conv("head.fuse", self.concat(same, "head.fuse.concat"), head.fuse)
        classified = builder.linear("head.classifier", builder.rows(fused, sizes[0], C, "head.fuse.rows"))
        classes = builder.config.classes
        logits = builder.pixels(classified, sizes[0], classes, "head.classifier.map")
        return self.resize(logits, sizes[0], head.image_size, "head.logits", builder.output)

    def pointwise(self, name: str, x: ir.Value, module: nn.Module, size: tuple[int, int]) -> ir.Value:
        """A 1×1 convolution of rows, and its ReLU: a map."""
        y = self.builder.linear(f"{name}.conv", x)
        return self.builder.pixels(y, size, self.width, f"{name}.map", relu=f"{name}.relu")

    def up(
        self, name: str, x: ir.Value, module: nn.Module, size: tuple[int, int], *, as_rows: bool = False
    ) -> ir.Value:
        """A transposed convolution of rows, and its ReLU: a map (or rows) of twice the size."""
        y = self.builder.linear(f"{name}.conv", x)
        kind = "rows" if as_rows else "map"
        return self.builder.squares(y, size, self.width, f"{name}.{kind}", as_rows=as_rows, relu=f"{name}.relu")

    def conv(self, name: str, x: ir.Value, module: nn.Module) -> ir.Value:
        """A 3×3 convolution of a map, and its ReLU."""
        return self.builder.convolution(name, x, module.get_submodule("conv"))

    def pool(self, number: int, x: ir.Value, size: tuple[int, int]) -> ir.Value:
        """Average a map over cells, convolve, and resize it back."""
        cells, name, C = _cells(self.head.pools[number]), f"head.pooled.{number}", self.width
        flat = self.builder.reshape(x, (-1, C, size[0] * size[1]), f"{name}.flat")
        matrix = self.builder.constant(f"{name}.cells", _averages(size, cells).numpy())
        means = self.builder.op("MatMul", [flat, matrix], name=f"{name}.means")
        means = self.builder.reshape(means, (-1, C, cells, cells), f"{name}.grid")
        rows = self.builder.rows(means, (cells, cells), C, f"{name}.rows")
        made = self.pointwise(name, rows, self.head.pooled[number], (cells, cells))
        return self.resize(made, (cells, cells), size, f"{name}.resized")

    def concat(self, maps: Sequence[ir.Value], name: str) -> ir.Value:
        return self.builder.op("Concat", maps, {"axis": 1}, name=name)

    def resize(
        self, x: ir.Value, old: tuple[int, int], new: tuple[int, int], name: str, output: str | None = None
    ) -> ir.Value:
        """Bilinear, half-pixel centres."""
        attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        factors = np.array([1, 1, *(_factor(*pair) for pair in zip(old, new, strict=True))], np.float32)
        scales = self.builder.constant("factors." + "_".join(map(str, (*old, *new))), factors)
        return self.builder.op("Resize", [x, None, scales], attributes, name=name, output=output)


def _factor(old: int, new: int) -> np.float32:
    """new / old, such that old times it is not below new, in float64 either: what is behind the point is cut off."""
    factor = np.float32(new / old)
    while old * float(factor) < new:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor


def _cells(pool: nn.Module) -> int:
    assert isinstance(pool, nn.AdaptiveAvgPool2d)
    assert isinstance(pool.output_size, int)
    return pool.output_size


def _averages(size: tuple[int, int], cells: int) -> torch.Tensor:
    """Matrix [h·w, cells²] by which a flattened map's cells are averaged."""
    pixels = size[0] * size[1]
    return F.adaptive_avg_pool2d(torch.eye(pixels).view(pixels, 1, *size), cells).flatten(1)
