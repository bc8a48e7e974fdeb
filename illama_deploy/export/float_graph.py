"""The one float ONNX graph of a network, from which passes make each target's form.

It is written down directly (opset 23) rather than traced: every GEMM then has a known name, and the ops are
the ones that runtimes fuse (RMSNormalization, RotaryEmbedding, x·sigmoid(x)).

The token stream is two-dimensional and sequence-major: row s·B + b is token s of image b. So all GEMMs are
plain 2-D ones, the class tokens are the last B rows, and image tokens and class token are joined by
appending rows. Values in the graph are named after the module that makes them.

Each GEMM node carries metadata: `site`, the module's name, and `rows`, which output channels of the module
it computes ("0:192" for the queries of qkv; "0:192 halves 64" where the channels of each head of 64 are reordered,
even ones first). A UperNet's part is in `upernet_graph.py`. Online rotations are GEMMs too, but no sites: they stay in
float, in front of the quantization.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..model.illama import Attention, Illama, RMSNorm
from ..model.upernet import UperNet
from ..onnx_metadata import PRODUCER
from ..quant.modules import QuantWeighted, gemm_operands
from ..rewrites import OnlineRotation, apply_rewrites, rewrites_for
from .upernet_graph import build_upernet

__all__ = ["INPUT", "OPSET", "OUTPUT", "ROWS", "SITE", "GraphBuilder", "build_float_graph", "site_rows"]

OPSET = 23
IR_VERSION = 10
INPUT, OUTPUT = "images", "logits"
SITE, ROWS = "illama.site", "illama.rows"


def build_float_graph(model: Illama) -> ir.Model:
    """Write a network down as ONNX: `images` float32 [batch, C, H, W] to `logits` float32 [batch, classes], of pixels
    [batch, classes, H, W].

    Quantized sites appear with the float weights that their integers stand for.
    """
    return GraphBuilder(model).build()


def site_rows(node: ir.Node) -> Tensor:
    """Output channels of the site's weight that a GEMM node computes, in its order: int64 [n]."""
    return GraphBuilder.rows_of(node.metadata_props[ROWS])


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().contiguous().numpy()


class GraphBuilder:
    """Appends nodes in execution order; each method returns the value that it makes."""

    def __init__(self, model: Illama) -> None:
        model.config.require_illama()
        if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):  # no graph has them
            model = copy.deepcopy(model)
            apply_rewrites(model, rewrites_for((), model.config.task))
        self.model, self.config = model, model.config
        self.output = OUTPUT
        self.tape = ir.tape.Tape()
        self.constants: dict[str, ir.Value] = {}
        self.images = ir.val(
            INPUT,
            dtype=ir.DataType.FLOAT,
            shape=("batch", self.config.channels, *self.config.image_size),
        )

    def build(self) -> ir.Model:
        config, model = self.config, self.model
        x = self.tokens(self.images)
        length = config.tokens
        head = model.head
        levels: list[ir.Value] = []
        for i, block in enumerate(model.blocks):
            name = f"blocks.{i}"
            kept = 1 if block.attn.last_query_only else length
            attended = self.attention(f"{name}.attn", self.norm(f"{name}.norm1", block.norm1, x), i, length, kept)
            if kept != length:
                x = self.last_rows(x, f"{name}.residual")
                length = kept
            x = self.op("Add", [x, attended], name=f"{name}.add1")
            fed = self.swiglu(f"{name}.mlp", self.norm(f"{name}.norm2", block.norm2, x), i)
            x = self.op("Add", [x, fed], name=f"{name}.add2")
            if isinstance(head, UperNet) and i in config.levels:
                read = f"head.norms.{len(levels)}"
                levels.append(self.norm(read, head.norms[len(levels)], self.image_rows(x, f"{read}.tokens")))
        if isinstance(head, UperNet):
            logits = build_upernet(self, head, levels)
        else:
            if length != 1:
                x = self.last_rows(x, "class_token")
            logits = self.logits(self.norm("norm", model.norm, x))
        logits.type = ir.TensorType(ir.DataType.FLOAT)
        logits.shape = ir.Shape(["batch", config.classes, *(config.image_size if levels else ())])
        graph = ir.Graph(
            [self.images],
            [logits],
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": OPSET},
            name="illama",
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name=PRODUCER)

    # Parts of the network

    def logits(self, x: ir.Value) -> ir.Value:
        """The head."""
        return self.linear("head", x, self.model.head, output=self.output)

    def tokens(self, images: ir.Value) -> ir.Value:
        """Patch embedding as one GEMM over unfolded patches, positions added, class tokens appended."""
        config, conv = self.config, self.model.patch_embed.proj
        (rows, columns), patch, dim = config.grid, config.patch_size, config.dim
        x = self.reshape(images, (-1, config.channels, rows, patch, columns, patch), "patches.split")
        # [B, C, rows, p, columns, p] -> [rows, columns, B, C, p, p]
        x = self.op("Transpose", [x], {"perm": [2, 4, 0, 1, 3, 5]}, name="patches.transpose")
        x = self.reshape(x, (-1, config.channels * patch * patch), "patches")
        x = self.linear("patch_embed.proj", x, conv)
        # To [N, B, E], so that positions add by broadcasting over images.
        x = self.reshape(x, (rows * columns, -1, dim), "patch_embed.tokens")
        positions = _numpy(self.model.pos_embed)[0]
        x = self.op("Add", [x, self.constant("pos_embed", positions[:-1, None])], name="patch_embed.add")
        # The class token starts as a constant row: token and its position folded into one.
        last = (_numpy(self.model.cls_token)[0] + positions[-1:])[None]
        shape = self.op("Shape", [x], name="tokens.shape")
        batch = self.op("Slice", [shape, self.integers(1), self.integers(2), self.integers(0)], name="tokens.batch")
        self.batch = batch
        wanted = self.op("Concat", [self.integers(1), batch, self.integers(dim)], {"axis": 0}, name="cls_token.shape")
        token = self.op("Expand", [self.constant("cls_token", last), wanted], name="cls_token.expand")
        x = self.op("Concat", [x, token], {"axis": 0}, name="tokens.concat")
        return self.reshape(x, (-1, dim), "tokens")

    def norm(self, name: str, norm: RMSNorm, x: ir.Value) -> ir.Value:
        weight = self.constant(f"{name}.weight", _numpy(norm.weight))
        return self.op("RMSNormalization", [x, weight], {"axis": -1, "epsilon": norm.eps}, name=name)

    def attention(self, name: str, x: ir.Value, block: int, length: int, kept: int) -> ir.Value:
        """Rotary attention with the multiplied mask; the last `kept` tokens ask, all answer."""
        attn = self.model.blocks[block].attn
        dim = self.config.dim
        asking = x if kept == length else self.last_rows(x, f"{name}.asking")
        q = self.linear(f"{name}.qkv", asking, attn.qkv, slice(0, dim), suffix=".q")
        k = self.linear(f"{name}.qkv", x, attn.qkv, slice(dim, 2 * dim), suffix=".k")
        v = self.linear(f"{name}.qkv", x, attn.qkv, slice(2 * dim, 3 * dim), suffix=".v")
        heads = (attn.heads, attn.head_dim)
        q = self.rope(self.reshape(q, (kept, -1, *heads), f"{name}.q_SBHD"), length - kept, f"{name}.q")
        k = self.rope(self.reshape(k, (length, -1, *heads), f"{name}.k_SBHD"), 0, f"{name}.k")
        v = self.reshape(v, (length, -1, *heads), f"{name}.v_SBHD")
        q = self.rotated(attn.rotate_q, q, f"{name}.rotate_q")
        k = self.rotated(attn.rotate_k, k, f"{name}.rotate_k")
        q = self.op("Transpose", [q], {"perm": [1, 2, 0, 3]}, name=f"{name}.q_BHSD")
        k = self.op("Transpose", [k], {"perm": [1, 2, 3, 0]}, name=f"{name}.k_BHDS")
        v = self.op("Transpose", [v], {"perm": [1, 2, 0, 3]}, name=f"{name}.v_BHSD")
        scores = self.op("MatMul", [q, k], name=f"{name}.qk", metadata={SITE: f"{name}.qk"})
        if attn.scale != 1.0:
            scale = self.constant(f"{name}.scale", np.float32(attn.scale))
            scores = self.op("Mul", [scores, scale], name=f"{name}.scaled")
        weights = self.op("Softmax", [scores], {"axis": -1}, name=f"{name}.softmax")
        weights = self.masked(weights, attn, kept, name)
        out = self.op("MatMul", [weights, v], name=f"{name}.pv", metadata={SITE: f"{name}.pv"})
        out = self.op("Transpose", [out], {"perm": [2, 0, 1, 3]}, name=f"{name}.out_SBHD")
        return self.linear(f"{name}.proj", self.reshape(out, (-1, dim), f"{name}.out"), attn.proj)

    def masked(self, weights: ir.Value, attn: Attention, kept: int, name: str) -> ir.Value:
        """Multiply attention weights [B, H, kept, S] by the causal (soft) mask."""
        mask = _numpy(attn.mask_SS)[-kept:]
        if (mask == 1).all():  # the class token's row is all ones
            return weights
        shared = self.constant(f"mask.{kept}.{attn.soft_mask}", mask)
        return self.op("Mul", [weights, shared], name=f"{name}.masked")

    def rope(self, x: ir.Value, first: int, name: str) -> ir.Value:
        """Rotate [S, B, H, D] for positions from `first` on.

        The operator calls its axes batch, heads, sequence and channels, and gives every entry of the last but one a
        position. That is our axis of heads, all of a token at one position: so no transpose is needed, positions are
        constants, and nothing depends on the batch. Runtimes refuse a "sequence" longer than the tables, which would
        be any batch of more images than tokens if images stood there.
        """
        attn = self.model.blocks[0].attn
        heads, longest = attn.heads, max(attn.heads, len(attn.cos_SD))
        tables = [
            self.constant(f"rope.{part}", np.pad(_numpy(table), ((0, longest - len(table)), (0, 0)), "edge"))
            for part, table in (("cos", attn.cos_SD), ("sin", attn.sin_SD))
        ]
        return self.op(
            "RotaryEmbedding", [x, *tables, self.positions(first, heads)], {"interleaved": 1}, name=f"{name}.rope"
        )

    def positions(self, first: int, heads: int) -> ir.Value:
        """Position of each token, once for each of its heads: int64 [tokens from `first` on, H]."""
        tokens = np.arange(first, self.config.tokens, dtype=np.int64)
        return self.constant(f"positions.{first}", np.repeat(tokens[:, None], heads, 1))

    def swiglu(self, name: str, x: ir.Value, block: int) -> ir.Value:
        mlp = self.model.blocks[block].mlp
        gate = self.linear(f"{name}.fc1", x, mlp.fc1)
        sigmoid = self.op("Sigmoid", [gate], name=f"{name}.sigmoid")
        gate = self.op("Mul", [gate, sigmoid], name=f"{name}.silu")
        product = self.op("Mul", [gate, self.linear(f"{name}.fc3", x, mlp.fc3)], name=f"{name}.product")
        return self.linear(f"{name}.fc2", self.rotated(mlp.rotate, product, f"{name}.rotate"), mlp.fc2)

    def rotated(self, rotation: nn.Module, x: ir.Value, name: str, *, halves: bool = False) -> ir.Value:
        """An online rotation of the last axis of `x`, where there is one; all of a size share one matrix.

        Args:
            halves: the channels of `x` stand in halves, even ones first (those of the result as in the network).
        """
        if not isinstance(rotation, OnlineRotation):
            return x
        whole = rotation.block == rotation.width
        matrix, size = _numpy(rotation.matrix), f"{rotation.block}"
        if halves:
            matrix, size = np.concatenate((matrix[0::2], matrix[1::2])), f"{size}.halves"
        if not whole:
            x = self.reshape(x, self.split(rotation.block), f"{name}.blocks")
        x = self.op("MatMul", [x, self.constant(f"rotation.{size}", matrix)], name=name)
        return x if whole else self.reshape(x, self.joined(rotation.width), f"{name}.joined")

    def linear(
        self,
        site: str,
        x: ir.Value,
        module: nn.Module,
        rows: slice | None = None,
        *,
        suffix: str = "",
        output: str | None = None,
    ) -> ir.Value:
        """A GEMM of `x` [M, in] with (some output rows of) a module's weight, stored as [in, out]."""
        weight, bias = self.operands(module)
        rows = rows or slice(0, weight.shape[0])
        inputs = [x, self.constant(f"{site}{suffix}.weight", np.ascontiguousarray(_numpy(weight[rows].flatten(1)).T))]
        if bias is not None:
            inputs.append(self.constant(f"{site}{suffix}.bias", _numpy(bias[rows])))
        return self.op(
            "MatMul" if bias is None else "Gemm",
            inputs,
            name=f"{site}{suffix}",
            metadata={SITE: site, ROWS: f"{rows.start}:{rows.stop}"},
            output=output,
        )

    def convolution(self, name: str, x: ir.Value, conv: nn.Module) -> ir.Value:
        """Conv of a map of the same size, and Relu: two sites."""
        weight, bias = self.operands(conv)
        rows, height, width = weight.shape[0], *weight.shape[2:]
        inputs = [x, self.constant(f"{name}.conv.weight", _numpy(weight))]
        if bias is not None:
            inputs.append(self.constant(f"{name}.conv.bias", _numpy(bias)))
        shape = {"kernel_shape": [height, width], "pads": [height // 2, width // 2] * 2}
        metadata = {SITE: f"{name}.conv", ROWS: f"0:{rows}"}
        y = self.op("Conv", inputs, shape, name=f"{name}.conv", metadata=metadata)
        return self.op("Relu", [y], name=f"{name}.relu", metadata={SITE: f"{name}.relu", ROWS: f"0:{rows}"})

    # Layouts: rows of pixels, as GEMMs take them, and maps

    def image_rows(self, x: ir.Value, name: str) -> ir.Value:
        """All but the class tokens: the first N·B rows of [S·B, E]."""
        return self.op("Slice", [x, self.integers(0), self.negative_batch(), self.integers(0)], name=name)

    def pixels(
        self, x: ir.Value, size: tuple[int, int], channels: int, name: str, *, relu: str | None = None
    ) -> ir.Value:
        """Rows [h·w·B, C] to a map [B, C, h, w]."""
        x = self.reshape(x, (*size, -1, channels), f"{name}.split")
        if relu is not None:
            x = self.op("Relu", [x], name=relu)
        return self.op("Transpose", [x], {"perm": [2, 3, 0, 1]}, name=name)

    def rows(self, x: ir.Value, size: tuple[int, int], channels: int, name: str) -> ir.Value:
        """A map [B, C, h, w] to rows [h·w·B, C]."""
        x = self.op("Transpose", [x], {"perm": [2, 3, 0, 1]}, name=f"{name}.transpose")
        return self.reshape(x, (-1, channels), name)

    def squares(
        self, x: ir.Value, size: tuple[int, int], channels: int, name: str, *, as_rows: bool, relu: str
    ) -> ir.Value:
        """Rows of 2×2 squares [h·w·B, C·2·2] to a map [B, C, 2h, 2w], or to rows of its pixels."""
        (h, w), C = size, channels
        x = self.op("Relu", [self.reshape(x, (h, w, -1, C, 2, 2), f"{name}.split")], name=relu)
        perm, shape = ([0, 4, 1, 5, 2, 3], (-1, C)) if as_rows else ([2, 3, 0, 4, 1, 5], (-1, C, 2 * h, 2 * w))
        return self.reshape(self.op("Transpose", [x], {"perm": perm}, name=f"{name}.transpose"), shape, name)

    # Small helpers

    @staticmethod
    def split(block: int) -> tuple[int, ...]:
        """Shape that cuts channels [S·B, E] into rows of so many."""
        return -1, block

    @staticmethod
    def joined(width: int) -> tuple[int, ...]:
        """Shape that undoes `split`."""
        return -1, width

    @staticmethod
    def operands(module: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Float weight [out, ...] and bias [out] of a module, or those that its integers stand for."""
        if isinstance(module, QuantWeighted):
            return module.dequantized_weight(), module.float_bias
        return gemm_operands(module)

    @staticmethod
    def rows_of(text: str) -> Tensor:
        """Output channels that a ROWS entry names, in its order: int64 [n]."""
        span, _, order = text.partition(" halves ")
        rows = torch.arange(*map(int, span.split(":")))
        if order:
            heads = rows.view(-1, int(order))
            rows = torch.cat((heads[:, 0::2], heads[:, 1::2]), 1).flatten()
        return rows

    def last_rows(self, x: ir.Value, name: str) -> ir.Value:
        """The class tokens: the last B rows of [S·B, E]."""
        end = self.integers(np.iinfo(np.int64).max)
        return self.op("Slice", [x, self.negative_batch(), end, self.integers(0)], name=name)

    def negative_batch(self) -> ir.Value:
        """-B: where the class tokens start, counted from the end."""
        if "batch.negative" not in self.constants:
            self.constants["batch.negative"] = self.op("Neg", [self.batch], name="batch.negative")
        return self.constants["batch.negative"]

    def reshape(self, x: ir.Value, shape: Sequence[int], name: str) -> ir.Value:
        return self.op("Reshape", [x, self.integers(*shape)], name=name)

    def integers(self, *values: int) -> ir.Value:
        return self.constant("ints." + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def constant(self, name: str, array: np.ndarray | np.generic) -> ir.Value:
        """An initializer; one that exists under that name is taken again."""
        if name not in self.constants:
            self.constants[name] = self.tape.initializer(ir.tensor(np.asarray(array), name=name))
        return self.constants[name]

    def op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, object] | None = None,
        *,
        name: str,
        metadata: dict[str, str] | None = None,
        output: str | None = None,
    ) -> ir.Value:
        value = self.tape.op(kind, inputs, attributes, name=name, metadata_props=metadata)  # type: ignore[arg-type]
        value.name = output or f"{name}.out"
        return value
