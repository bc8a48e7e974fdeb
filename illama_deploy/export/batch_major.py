"""The float graph with tokens as [B, S, E], the layout whose patterns OpenVINO fuses.

Same network, same sites and names as `float_graph`; what differs:

1. Linear layers are MatMul and Add on three dimensions.
2. RoPE is x·cos + concat(-x2, x1)·sin on halves of each head, which OpenVINO turns into one node. The network
   rotates neighbouring channels instead, so the output channels of q and k are reordered, even ones first; q·kᵀ
   does not change.
3. RMSNorm is written in its primitive operations.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from torch import nn

from ..model.illama import Illama, RMSNorm
from .float_graph import ROWS, SITE, GraphBuilder, _numpy

__all__ = ["build_batch_major_graph"]


def build_batch_major_graph(model: Illama) -> ir.Model:
    """As `build_float_graph`, in the other layout."""
    return _BatchMajorBuilder(model).build()


class _BatchMajorBuilder(GraphBuilder):
    def tokens(self, images: ir.Value) -> ir.Value:
        config, conv = self.config, self.model.patch_embed.proj
        (rows, columns), patch, dim = config.grid, config.patch_size, config.dim
        x = self.reshape(images, (-1, config.channels, rows, patch, columns, patch), "patches.split")
        # [B, C, rows, p, columns, p] -> [B, rows, columns, C, p, p]
        x = self.op("Transpose", [x], {"perm": [0, 2, 4, 1, 3, 5]}, name="patches.transpose")
        x = self.reshape(x, (-1, rows * columns, config.channels * patch * patch), "patches")
        x = self.linear("patch_embed.proj", x, conv)
        positions = _numpy(self.model.pos_embed)
        x = self.op("Add", [x, self.constant("pos_embed", positions[:, :-1])], name="patch_embed.add")
        last = _numpy(self.model.cls_token) + positions[:, -1:]
        shape = self.op("Shape", [x], name="tokens.shape")
        batch = self.op("Slice", [shape, self.integers(0), self.integers(1), self.integers(0)], name="tokens.batch")
        wanted = self.op("Concat", [batch, self.integers(1), self.integers(dim)], {"axis": 0}, name="cls_token.shape")
        token = self.op("Expand", [self.constant("cls_token", last), wanted], name="cls_token.expand")
        return self.op("Concat", [x, token], {"axis": 1}, name="tokens.concat")

    def norm(self, name: str, norm: RMSNorm, x: ir.Value) -> ir.Value:
        two = self.constant("two", np.float32(2))
        squares = self.op("Pow", [x, two], name=f"{name}.squares")
        mean = self.op("ReduceMean", [squares, self.integers(-1)], {"keepdims": 1}, name=f"{name}.mean")
        mean = self.op(
            "Add", [mean, self.constant(f"epsilon.{norm.eps}", np.float32(norm.eps))], name=f"{name}.shifted"
        )
        root = self.op("Sqrt", [mean], name=f"{name}.root")
        scale = self.op("Div", [self.constant("one", np.float32(1)), root], name=f"{name}.scale")
        x = self.op("Mul", [x, scale], name=f"{name}.normed")
        return self.op("Mul", [x, self.constant(f"{name}.weight", _numpy(norm.weight))], name=name)

    def attention(self, name: str, x: ir.Value, block: int, length: int, kept: int) -> ir.Value:
        attn = self.model.blocks[block].attn
        dim, heads = self.config.dim, (attn.heads, attn.head_dim)
        asking = x if kept == length else self.last_rows(x, f"{name}.asking")
        parts = {}
        for part, (letter, source, count) in enumerate((("q", asking, kept), ("k", x, length), ("v", x, length))):
            rows, suffix = slice(part * dim, (part + 1) * dim), f".{letter}"
            y = self.linear(
                f"{name}.qkv", source, attn.qkv, rows, suffix=suffix, halves=attn.head_dim if part < 2 else 0
            )
            y = self.reshape(y, (-1, count, *heads), f"{name}.{letter}_BSHD")
            y = self.op("Transpose", [y], {"perm": [0, 2, 1, 3]}, name=f"{name}.{letter}_BHSD")
            if part < 2:
                y = self.halves_rope(y, length - count, count, f"{name}.{letter}")
                rotation = attn.get_submodule(f"rotate_{letter}")
                y = self.rotated(rotation, y, f"{name}.rotate_{letter}", halves=True)
            parts[letter] = y
        k = self.op("Transpose", [parts["k"]], {"perm": [0, 1, 3, 2]}, name=f"{name}.k_BHDS")
        scores = self.op("MatMul", [parts["q"], k], name=f"{name}.qk", metadata={SITE: f"{name}.qk"})
        if attn.scale != 1.0:
            scores = self.op(
                "Mul", [scores, self.constant(f"{name}.scale", np.float32(attn.scale))], name=f"{name}.scaled"
            )
        weights = self.op("Softmax", [scores], {"axis": -1}, name=f"{name}.softmax")
        weights = self.masked(weights, attn, kept, name)
        out = self.op("MatMul", [weights, parts["v"]], name=f"{name}.pv", metadata={SITE: f"{name}.pv"})
        out = self.op("Transpose", [out], {"perm": [0, 2, 1, 3]}, name=f"{name}.out_BSHD")
        return self.linear(f"{name}.proj", self.reshape(out, (-1, kept, dim), f"{name}.out"), attn.proj)

    def halves_rope(self, x: ir.Value, first: int, count: int, name: str) -> ir.Value:
        """Rotate [B, H, S, D], channels in halves, for positions first..first+count-1."""
        attn = self.model.blocks[0].attn
        half = attn.head_dim // 2
        cos, sin = (np.tile(_numpy(table)[first : first + count], 2) for table in (attn.cos_SD, attn.sin_SD))
        axis, end = self.integers(-1), self.integers(np.iinfo(np.int64).max)
        low = self.op("Slice", [x, self.integers(0), self.integers(half), axis], name=f"{name}.low")
        high = self.op("Slice", [x, self.integers(half), end, axis], name=f"{name}.high")
        turned = self.op(
            "Concat", [self.op("Neg", [high], name=f"{name}.neg"), low], {"axis": -1}, name=f"{name}.turned"
        )
        one = self.op("Mul", [x, self.constant(f"rope.cos.{first}", cos[None, None])], name=f"{name}.cos")
        two = self.op("Mul", [turned, self.constant(f"rope.sin.{first}", sin[None, None])], name=f"{name}.sin")
        return self.op("Add", [one, two], name=f"{name}.rope")

    def linear(
        self,
        site: str,
        x: ir.Value,
        module: nn.Module,
        rows: slice | None = None,
        *,
        suffix: str = "",
        output: str | None = None,
        halves: int = 0,
    ) -> ir.Value:
        weight, bias = self.operands(module)
        rows = rows or slice(0, weight.shape[0])
        metadata = {SITE: site, ROWS: f"{rows.start}:{rows.stop}" + (f" halves {halves}" if halves else "")}
        order = self.rows_of(metadata[ROWS])
        constant = self.constant(f"{site}{suffix}.weight", np.ascontiguousarray(_numpy(weight[order].flatten(1)).T))
        y = self.op(
            "MatMul",
            [x, constant],
            name=f"{site}{suffix}",
            metadata=metadata,
            output=None if bias is not None else output,
        )
        if bias is None:
            return y
        return self.op(
            "Add",
            [y, self.constant(f"{site}{suffix}.bias", _numpy(bias[order]))],
            name=f"{site}{suffix}.add",
            output=output,
        )

    @staticmethod
    def split(block: int) -> tuple[int, ...]:
        """Of [B, S, E]; a 0 keeps the axis."""
        return 0, 0, -1, block

    @staticmethod
    def joined(width: int) -> tuple[int, ...]:
        return 0, 0, width

    def last_rows(self, x: ir.Value, name: str) -> ir.Value:
        """The class token of each image: [B, 1, E]."""
        end = self.integers(np.iinfo(np.int64).max)
        return self.op("Slice", [x, self.integers(-1), end, self.integers(1)], name=name)

    def image_rows(self, x: ir.Value, name: str) -> ir.Value:
        """All but the class token of each image: [B, N, E]."""
        return self.op("Slice", [x, self.integers(0), self.integers(-1), self.integers(1)], name=name)

    def pixels(
        self, x: ir.Value, size: tuple[int, int], channels: int, name: str, *, relu: str | None = None
    ) -> ir.Value:
        """Rows [B, h·w, C] to a map [B, C, h, w]."""
        x = self.reshape(x, (-1, *size, channels), f"{name}.split")
        if relu is not None:
            x = self.op("Relu", [x], name=relu)
        return self.op("Transpose", [x], {"perm": [0, 3, 1, 2]}, name=name)

    def rows(self, x: ir.Value, size: tuple[int, int], channels: int, name: str) -> ir.Value:
        """A map [B, C, h, w] to rows [B, h·w, C]."""
        x = self.op("Transpose", [x], {"perm": [0, 2, 3, 1]}, name=f"{name}.transpose")
        return self.reshape(x, (-1, size[0] * size[1], channels), name)

    def squares(
        self, x: ir.Value, size: tuple[int, int], channels: int, name: str, *, as_rows: bool, relu: str
    ) -> ir.Value:
        """Rows of 2×2 squares [B, h·w, C·2·2] to a map [B, C, 2h, 2w], or to rows of its pixels."""
        (h, w), C = size, channels
        x = self.op("Relu", [self.reshape(x, (-1, h, w, C, 2, 2), f"{name}.split")], name=relu)
        perm, shape = (
            ([0, 1, 4, 2, 5, 3], (-1, 4 * h * w, C)) if as_rows else ([0, 3, 1, 4, 2, 5], (-1, C, 2 * h, 2 * w))
        )
        return self.reshape(self.op("Transpose", [x], {"perm": perm}, name=f"{name}.transpose"), shape, name)

    def logits(self, x: ir.Value) -> ir.Value:
        pooled = self.reshape(x, (-1, self.config.dim), "pooled")
        return super().logits(pooled)
