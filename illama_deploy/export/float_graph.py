"""The one float ONNX graph of a network, from which passes make each target's form.

It is written down directly (opset 23) rather than traced: every GEMM then has a known name, and the ops are
the ones that runtimes fuse (RMSNormalization, RotaryEmbedding, x·sigmoid(x)). What is written down is the network's
`Structure`; how its tokens lie is a `Layout`. Values in the graph are named after the module that makes them.

Each GEMM node carries metadata: `site`, the module's name, and `rows`, which output channels of the module
it computes ("0:192" for the queries of qkv; "0:192 halves 64" where the channels of each head of 64 are reordered,
even ones first). A UperNet's part is in `upernet_graph.py`. Online rotations are GEMMs too, but no sites: they stay in
float, in front of the quantization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..model.activations import QUICK
from ..model.attention import Attention
from ..model.network import Network
from ..model.norm import RMSNorm
from ..model.structure import AttentionParts, FfnParts, Outlet
from ..model.upernet import UperNet
from ..onnx_metadata import PRODUCER
from ..quant.modules import QuantWeighted, gemm_operands
from ..rewrites import OnlineRotation, with_needed_rewrites
from .layout import SEQUENCE_MAJOR, Layout
from .upernet_graph import build_upernet

__all__ = ["INPUT", "OPSET", "OUTPUT", "ROWS", "SITE", "GraphBuilder", "build_float_graph", "site_rows"]

OPSET = 23
IR_VERSION = 10
INPUT, OUTPUT = "images", "logits"
SITE, ROWS = "illama.site", "illama.rows"
END = np.iinfo(np.int64).max  # of a Slice that goes to the last


def build_float_graph(model: Network, layout: Layout = SEQUENCE_MAJOR) -> ir.Model:
    """Write a network down as ONNX: `images` float32 [batch, C, H, W] to `logits` float32 [batch, classes], of pixels
    [batch, classes, H, W].

    Quantized sites appear with the float weights that their integers stand for.
    """
    return GraphBuilder(model, layout).build()


def site_rows(node: ir.Node) -> Tensor:
    """Output channels of the site's weight that a GEMM node computes, in its order: int64 [n]."""
    return _rows_of(node.metadata_props[ROWS])


def _rows_of(text: str) -> Tensor:
    span, _, order = text.partition(" halves ")
    rows = torch.arange(*map(int, span.split(":")))
    if order:
        heads = rows.view(-1, int(order))
        rows = torch.cat((heads[:, 0::2], heads[:, 1::2]), 1).flatten()
    return rows


def _operands(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Float weight [out, ...] and bias [out] of a module, or those that its integers stand for."""
    if isinstance(module, QuantWeighted):
        return module.dequantized_weight(), module.float_bias
    return gemm_operands(module)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().contiguous().numpy()


class GraphBuilder:
    """Appends nodes in execution order; each method returns the value that it makes."""

    def __init__(self, model: Network, layout: Layout = SEQUENCE_MAJOR) -> None:
        self.structure = model.structure
        model = with_needed_rewrites(model)  # no graph has what they take away
        self.model, self.config, self.layout = model, model.config, layout
        self.output = OUTPUT
        self.tape = ir.tape.Tape()
        self.constants: dict[str, ir.Value] = {}
        self.images = ir.val(
            INPUT,
            dtype=ir.DataType.FLOAT,
            shape=("batch", self.config.channels, *self.config.image_size),
        )

    def build(self) -> ir.Model:
        config, head = self.config, self.model.head
        x, length = self.tokens(self.images), config.tokens
        read: list[ir.Value] = []
        for i, parts in enumerate(self.structure.blocks):
            asking = self.span(self.attention_module(parts.attention))
            attended = self.attention(parts.attention, self.norm(parts.attention_read.norm, x), asking)
            if len(asking) != length:
                x, length = self.first_rows(x, f"{parts.name}.residual", len(asking)), len(asking)
            x = self.op("Add", [x, attended], name=f"{parts.name}.add1")
            fed = self.ffn(parts.ffn, self.norm(parts.ffn_read.norm, x))
            x = self.op("Add", [x, fed], name=f"{parts.name}.add2")
            read += [self.outlet(outlet, x, length) for outlet in self.structure.outlets if outlet.block == i]
        logits = build_upernet(self, head, read) if isinstance(head, UperNet) else self.logits(read)
        logits.type = ir.TensorType(ir.DataType.FLOAT)
        logits.shape = ir.Shape(["batch", *config.logits])
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

    def attention_module(self, parts: AttentionParts) -> Attention:
        """The module that knows heads, scale and mask."""
        return cast(Attention, self.model.get_submodule(parts.name))

    def span(self, attn: Attention) -> range:
        """The positions of the tokens that ask."""
        return range(self.config.tokens)[attn.asking]

    def outlet(self, outlet: Outlet, x: ir.Value, length: int) -> ir.Value:
        """What leads out of the network, up to the layer that reads it; `x` are the first `length` tokens."""
        norm = outlet.read.norm
        if outlet.tokens == "image":
            x = self.image_rows(x, f"{norm}.tokens")
        elif outlet.tokens == "second":
            x = self.first_rows(x, "second_token", 1, 1)
        elif length != 1:
            x = self.first_rows(x, "class_token")
        if outlet.mean == "before":
            x = self.mean(x, f"{norm}.mean_of_tokens")
        x = self.norm(norm, x)
        return self.mean(x, f"{norm}.mean_of_tokens") if outlet.mean == "after" else x

    def mean(self, x: ir.Value, name: str) -> ir.Value:
        """The mean of all image tokens of each image, as one token."""
        (rows, columns), layout = self.config.grid, self.layout
        if not layout.batch_first:
            x = self.reshape(x, layout.apart(rows * columns, self.config.dim), f"{name}.apart")
        axis = self.integers(layout.token_axis)
        return self.op("ReduceMean", [x, axis], {"keepdims": int(layout.batch_first)}, name=name)

    def logits(self, read: Sequence[ir.Value]) -> ir.Value:
        """The head, or the sum of several."""
        found: list[ir.Value] = []
        places = [outlet.read.place for outlet in self.structure.outlets]
        for name, token in zip(places, read, strict=True):
            x = token
            if self.layout.batch_first:
                x = self.reshape(x, (-1, self.config.dim), "pooled" if not found else f"{name}.pooled")
            found.append(self.linear(name, x, output=self.output if len(places) == 1 else None))
        return found[0] if len(found) == 1 else self.op("Add", found, name="heads.sum", output=self.output)

    def tokens(self, images: ir.Value) -> ir.Value:
        """Patch embedding as one GEMM over unfolded patches, positions added, class tokens joined on."""
        config, layout, embedding = self.config, self.layout, self.structure.embedding
        (rows, columns), patch, dim = config.grid, config.patch_size, config.dim
        layer = embedding.patches.rpartition(".")[0]
        x = self.reshape(images, (-1, config.channels, rows, patch, columns, patch), "patches.split")
        perm = layout.perm("BChpwq", layout.pixel_axes + "Cpq")
        x = self.op("Transpose", [x], {"perm": perm}, name="patches.transpose")
        x = self.reshape(x, layout.joined(rows * columns, config.channels * patch * patch), "patches")
        x = self.linear(embedding.patches, x)
        if not layout.batch_first:  # so that positions add by broadcasting over images
            x = self.reshape(x, layout.apart(rows * columns, dim), f"{layer}.tokens")
        positions = None
        if embedding.positions is not None:
            positions = _numpy(self.model.get_parameter(embedding.positions))[0]
            image = np.expand_dims(positions[self.structure.image_tokens], layout.batch_axis)
            x = self.op("Add", [x, self.constant(embedding.positions, image)], name=f"{layer}.add")
        if embedding.others is not None:
            x = self.with_others(x, embedding.others, positions)
        x = x if layout.batch_first else self.reshape(x, (-1, dim), "tokens")
        if embedding.entry is not None:
            x = self.linear(embedding.entry.place, self.norm(embedding.entry.norm, x))
        return x

    def with_others(self, x: ir.Value, name: str, positions: np.ndarray | None) -> ir.Value:
        """Image tokens, images and tokens on axes of their own, joined with those that are not of the image."""
        layout, dim, count = self.layout, self.config.dim, self.structure.others
        own, class_index = _numpy(self.model.get_parameter(name))[0], self.structure.class_index
        if positions is not None:
            # They start as constant rows: token and its position folded into one.
            own = own + (positions[-count:] if class_index else positions[:count])
        own = np.expand_dims(own, layout.batch_axis)
        shape = self.op("Shape", [x], name="tokens.shape")
        axis = layout.batch_axis
        found = [shape, self.integers(axis), self.integers(axis + 1), self.integers(0)]
        self.batch = self.op("Slice", found, name="tokens.batch")
        many = self.integers(count)
        order = [self.batch, many] if layout.batch_first else [many, self.batch]
        wanted = self.op("Concat", [*order, self.integers(dim)], {"axis": 0}, name=f"{name}.shape")
        tokens = self.op("Expand", [self.constant(name, own), wanted], name=f"{name}.expand")
        both = [x, tokens] if class_index else [tokens, x]
        return self.op("Concat", both, {"axis": layout.token_axis}, name="tokens.concat")

    def norm(self, name: str, x: ir.Value) -> ir.Value:
        """RMSNorm, or LayerNorm where one is left."""
        norm = self.model.get_submodule(name)
        if isinstance(norm, nn.LayerNorm):
            parts = [self.constant(f"{name}.{kind}", _numpy(getattr(norm, kind))) for kind in ("weight", "bias")]
            return self.op("LayerNormalization", [x, *parts], {"axis": -1, "epsilon": norm.eps}, name=name)
        assert isinstance(norm, RMSNorm)
        if self.layout.norm == "operator":
            weight = self.constant(f"{name}.weight", _numpy(norm.weight))
            return self.op("RMSNormalization", [x, weight], {"axis": -1, "epsilon": norm.eps}, name=name)
        two = self.constant("two", np.float32(2))
        squares = self.op("Pow", [x, two], name=f"{name}.squares")
        mean = self.op("ReduceMean", [squares, self.integers(-1)], {"keepdims": 1}, name=f"{name}.mean")
        epsilon = self.constant(f"epsilon.{norm.eps}", np.float32(norm.eps))
        mean = self.op("Add", [mean, epsilon], name=f"{name}.shifted")
        root = self.op("Sqrt", [mean], name=f"{name}.root")
        scale = self.op("Div", [self.constant("one", np.float32(1)), root], name=f"{name}.scale")
        x = self.op("Mul", [x, scale], name=f"{name}.normed")
        return self.op("Mul", [x, self.constant(f"{name}.weight", _numpy(norm.weight))], name=name)

    def attention(self, parts: AttentionParts, x: ir.Value, asking: range) -> ir.Value:
        """Attention with its mask; the tokens at `asking` ask, all answer."""
        name, attn, layout = parts.name, self.attention_module(parts), self.layout
        source = x if len(asking) == self.config.tokens else self.first_rows(x, f"{name}.asking", len(asking))
        q, k, v = (self.heads_as_rows if layout.rope == "operator" else self.heads_apart)(parts, source, x, asking)
        scores = self.op("MatMul", [q, k], name=parts.scores, metadata={SITE: parts.scores})
        if attn.scale != 1.0:
            scale = self.constant(f"{name}.scale", np.float32(attn.scale))
            scores = self.op("Mul", [scores, scale], name=f"{name}.scaled")
        if attn.mask == "additive":
            scores = self.masked(scores, attn, name)
        weights = self.op("Softmax", [scores], {"axis": -1}, name=f"{name}.softmax")
        if attn.mask != "additive":
            weights = self.masked(weights, attn, name)
        out = self.op("MatMul", [weights, v], name=parts.mix, metadata={SITE: parts.mix})
        order = f"{layout.letters}HD"
        out = self.op("Transpose", [out], {"perm": layout.perm("BHSD", order)}, name=f"{name}.out_{order}")
        out = self.reshape(out, layout.joined(len(asking), self.config.dim), f"{name}.out")
        return self.linear(parts.proj, out if parts.norm is None else self.norm(parts.norm, out))

    def heads_as_rows(
        self, parts: AttentionParts, source: ir.Value, x: ir.Value, asking: range
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Queries [B, H, s, D] of `source`, keys [B, H, D, S] and values [B, H, S, D] of `x`, turned as
        [S, B, H, D]."""
        name, attn, layout, dim = parts.name, self.attention_module(parts), self.layout, self.config.dim
        everyone = range(self.config.tokens)
        heads, order = (attn.heads, attn.head_dim), f"{layout.letters}HD"
        q = self.linear(parts.qkv, source, slice(0, dim), suffix=".q")
        k = self.linear(parts.qkv, x, slice(dim, 2 * dim), suffix=".k")
        v = self.linear(parts.qkv, x, slice(2 * dim, 3 * dim), suffix=".v")
        q = self.rope(
            attn, self.reshape(q, layout.apart(len(asking), *heads), f"{name}.q_{order}"), asking, f"{name}.q"
        )
        k = self.rope(
            attn, self.reshape(k, layout.apart(len(everyone), *heads), f"{name}.k_{order}"), everyone, f"{name}.k"
        )
        v = self.reshape(v, layout.apart(len(everyone), *heads), f"{name}.v_{order}")
        q = self.rotated(parts.rotate_q, q)
        k = self.rotated(parts.rotate_k, k)
        q = self.op("Transpose", [q], {"perm": layout.perm(order, "BHSD")}, name=f"{name}.q_BHSD")
        k = self.op("Transpose", [k], {"perm": layout.perm(order, "BHDS")}, name=f"{name}.k_BHDS")
        v = self.op("Transpose", [v], {"perm": layout.perm(order, "BHSD")}, name=f"{name}.v_BHSD")
        return q, k, v

    def heads_apart(
        self, parts: AttentionParts, source: ir.Value, x: ir.Value, asking: range
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """As `heads_as_rows`, turned as [B, H, S, D]."""
        name, attn, layout, dim = parts.name, self.attention_module(parts), self.layout, self.config.dim
        everyone, order, made = range(self.config.tokens), f"{layout.letters}HD", []
        for part, (letter, given, span) in enumerate((("q", source, asking), ("k", x, everyone), ("v", x, everyone))):
            turned = attn.rope and part < 2
            rows = slice(part * dim, (part + 1) * dim)
            y = self.linear(parts.qkv, given, rows, suffix=f".{letter}", halves=attn.head_dim if turned else 0)
            y = self.reshape(y, layout.apart(len(span), attn.heads, attn.head_dim), f"{name}.{letter}_{order}")
            y = self.op("Transpose", [y], {"perm": layout.perm(order, "BHSD")}, name=f"{name}.{letter}_BHSD")
            if turned:
                y = self.halves_rope(attn, y, span, f"{name}.{letter}")
            if part < 2:
                y = self.rotated((parts.rotate_q, parts.rotate_k)[part], y, halves=turned)
            made.append(y)
        q, k, v = made
        k = self.op("Transpose", [k], {"perm": layout.perm("BHSD", "BHDS")}, name=f"{name}.k_BHDS")
        return q, k, v

    def masked(self, x: ir.Value, attn: Attention, name: str) -> ir.Value:
        """Multiply attention weights [B, H, s, S] by the causal (soft) mask, or add it to the scores; left out where it
        changes nothing, as in the row of a class token that sees everything."""
        mask, additive = attn.hidden(), attn.mask == "additive"
        if mask is None:
            return x
        kind = ".additive" if additive else ""
        shared = self.constant(f"mask.{len(mask)}.{attn.soft_mask}{kind}", _numpy(mask))
        return self.op("Add" if additive else "Mul", [x, shared], name=f"{name}.masked")

    def rope(self, attn: Attention, x: ir.Value, span: range, name: str) -> ir.Value:
        """Rotate [S, B, H, D] for these positions.

        The operator calls its axes batch, heads, sequence and channels, and gives every entry of the last but one a
        position. That is our axis of heads, all of a token at one position: so no transpose is needed, positions are
        constants, and nothing depends on the batch. Runtimes refuse a "sequence" longer than the tables, which would
        be any batch of more images than tokens if images stood there.
        """
        if not attn.rope:
            return x
        cos, sin = (_numpy(table) for table in attn.tables())
        # The position of each token, once for each of its heads: int64 [tokens, H].
        ids, own = np.repeat(np.asarray(span, dtype=np.int64)[:, None], attn.heads, 1), ""
        if cos.ndim == 3:  # each head has its own part of the tables
            ids, own = ids + np.arange(attn.heads) * cos.shape[1], f"{name.rpartition('.')[0]}."
            cos, sin = cos.reshape(-1, cos.shape[2]), sin.reshape(-1, sin.shape[2])
        longest = max(attn.heads, len(cos))
        tables = [
            self.constant(f"{own}rope.{part}", np.pad(table, ((0, longest - len(table)), (0, 0)), "edge"))
            for part, table in (("cos", cos), ("sin", sin))
        ]
        positions = self.constant(f"positions.{self.span_name(span)}{'.heads' if own else ''}", ids)
        return self.op("RotaryEmbedding", [x, *tables, positions], {"interleaved": 1}, name=f"{name}.rope")

    def halves_rope(self, attn: Attention, x: ir.Value, span: range, name: str) -> ir.Value:
        """Rotate [B, H, S, D], channels in halves, for these positions."""
        half, which = attn.head_dim // 2, self.span_name(span)
        cos, sin = (_numpy(torch.cat((t, t), -1))[..., span.start : span.stop, :] for t in attn.tables())
        own = f"{name.rpartition('.')[0]}." if cos.ndim == 3 else ""
        cos, sin = (table.reshape(1, -1, *table.shape[-2:]) for table in (cos, sin))
        axis, end = self.integers(-1), self.integers(END)
        low = self.op("Slice", [x, self.integers(0), self.integers(half), axis], name=f"{name}.low")
        high = self.op("Slice", [x, self.integers(half), end, axis], name=f"{name}.high")
        swapped = [self.op("Neg", [high], name=f"{name}.neg"), low]
        turned = self.op("Concat", swapped, {"axis": -1}, name=f"{name}.turned")
        one = self.op("Mul", [x, self.constant(f"{own}rope.cos.{which}", cos)], name=f"{name}.cos")
        two = self.op("Mul", [turned, self.constant(f"{own}rope.sin.{which}", sin)], name=f"{name}.sin")
        return self.op("Add", [one, two], name=f"{name}.rope")

    def span_name(self, span: range) -> str:
        """A name for constants of these positions."""
        return f"{span.start}" if span.stop == self.config.tokens else f"{span.start}.{span.stop}"

    def ffn(self, parts: FfnParts, x: ir.Value) -> ir.Value:
        """An activation of one layer, or its product with another."""
        name = parts.name
        hidden = self.activation(parts.activation, self.linear(parts.reads[0], x), name)
        if parts.gate is not None:
            hidden = self.op("Mul", [hidden, self.linear(parts.up, x)], name=f"{name}.product")
        if parts.norm is not None:
            hidden = self.norm(parts.norm, hidden)
        return self.linear(parts.down, self.rotated(parts.rotate, hidden))

    def activation(self, kind: str, x: ir.Value, name: str) -> ir.Value:
        """One of `ACTIVATIONS`, in the form that runtimes fuse."""
        if kind in ("silu", "quick_gelu"):
            steep = x
            if kind == "quick_gelu":
                steep = self.op("Mul", [x, self.constant("quick", np.float32(QUICK))], name=f"{name}.steep")
            sigmoid = self.op("Sigmoid", [steep], name=f"{name}.sigmoid")
            return self.op("Mul", [x, sigmoid], name=f"{name}.{kind}")
        approximate = "tanh" if kind == "gelu_tanh" else "none"
        return self.op("Gelu", [x], {"approximate": approximate}, name=f"{name}.{kind}")

    def rotated(self, name: str, x: ir.Value, *, halves: bool = False) -> ir.Value:
        """The online rotation of that name on the last axis of `x`, where there is one; all of a size share one matrix.

        Args:
            halves: the channels of `x` stand in halves, even ones first (those of the result as in the network).
        """
        rotation = self.model.get_submodule(name)
        if not isinstance(rotation, OnlineRotation):
            return x
        whole = rotation.block == rotation.width
        matrix, size = _numpy(rotation.matrix), f"{rotation.block}"
        if halves:
            matrix, size = np.concatenate((matrix[0::2], matrix[1::2])), f"{size}.halves"
        if not whole:
            x = self.reshape(x, self.layout.blocks(rotation.block), f"{name}.blocks")
        x = self.op("MatMul", [x, self.constant(f"rotation.{size}", matrix)], name=name)
        return x if whole else self.reshape(x, self.layout.unblocked(rotation.width), f"{name}.joined")

    def linear(
        self,
        site: str,
        x: ir.Value,
        rows: slice | None = None,
        *,
        suffix: str = "",
        output: str | None = None,
        halves: int = 0,
    ) -> ir.Value:
        """A GEMM of `x` [..., in] with (some output rows of) a site's weight, stored as [in, out].

        Args:
            halves: the size of heads whose output channels are reordered, even ones first.
        """
        weight, bias = _operands(self.model.get_submodule(site))
        rows = rows or slice(0, weight.shape[0])
        metadata = {SITE: site, ROWS: f"{rows.start}:{rows.stop}" + (f" halves {halves}" if halves else "")}
        order = _rows_of(metadata[ROWS])
        name = f"{site}{suffix}"
        inputs = [x, self.constant(f"{name}.weight", np.ascontiguousarray(_numpy(weight[order].flatten(1)).T))]
        apart = self.layout.linear == "MatMul" and bias is not None
        if bias is not None and not apart:
            inputs.append(self.constant(f"{name}.bias", _numpy(bias[order])))
        kind = "Gemm" if len(inputs) == 3 else "MatMul"
        y = self.op(kind, inputs, name=name, metadata=metadata, output=None if apart else output)
        if not apart:
            return y
        assert bias is not None
        return self.op(
            "Add", [y, self.constant(f"{name}.bias", _numpy(bias[order]))], name=f"{name}.add", output=output
        )

    def convolution(self, name: str, x: ir.Value, conv: nn.Module) -> ir.Value:
        """Conv of a map of the same size, and Relu: two sites."""
        weight, bias = _operands(conv)
        rows, height, width = weight.shape[0], *weight.shape[2:]
        inputs = [x, self.constant(f"{name}.conv.weight", _numpy(weight))]
        if bias is not None:
            inputs.append(self.constant(f"{name}.conv.bias", _numpy(bias)))
        shape = {"kernel_shape": [height, width], "pads": [height // 2, width // 2] * 2}
        metadata = {SITE: f"{name}.conv", ROWS: f"0:{rows}"}
        y = self.op("Conv", inputs, shape, name=f"{name}.conv", metadata=metadata)
        return self.op("Relu", [y], name=f"{name}.relu", metadata={SITE: f"{name}.relu", ROWS: f"0:{rows}"})

    # Tokens, and the pixels of maps

    def first_rows(self, x: ir.Value, name: str, count: int = 1, start: int = 0) -> ir.Value:
        """The class token of each image; or as many tokens as `count` says, from `start`, where it is the first."""
        if self.layout.batch_first:
            span = (-1, END) if self.structure.class_index else (start, start + count)
            return self.op("Slice", [x, *map(self.integers, span), self.integers(1)], name=name)
        if self.structure.class_index:
            end = self.integers(END)
            return self.op("Slice", [x, self.negative_batch(), end, self.integers(0)], name=name)
        return self.op("Slice", [x, self.rows_of(start), self.rows_of(start + count), self.integers(0)], name=name)

    def image_rows(self, x: ir.Value, name: str) -> ir.Value:
        """All image tokens of each image."""
        if not self.structure.others:
            return x
        if self.layout.batch_first:
            span = (0, -1) if self.structure.class_index else (self.structure.others, END)
            return self.op("Slice", [x, *map(self.integers, span), self.integers(1)], name=name)
        if self.structure.class_index:
            return self.op("Slice", [x, self.integers(0), self.negative_batch(), self.integers(0)], name=name)
        start = self.rows_of(self.structure.others)
        return self.op("Slice", [x, start, self.integers(END), self.integers(0)], name=name)

    def rows_of(self, tokens: int) -> ir.Value:
        """How many rows so many tokens of all images are."""
        if tokens < 2:
            return self.batch if tokens else self.integers(0)
        if f"batch.{tokens}" not in self.constants:
            factor = self.integers(tokens)
            self.constants[f"batch.{tokens}"] = self.op("Mul", [self.batch, factor], name=f"batch.{tokens}")
        return self.constants[f"batch.{tokens}"]

    def negative_batch(self) -> ir.Value:
        """-B: where the class tokens start, counted from the end."""
        if "batch.negative" not in self.constants:
            self.constants["batch.negative"] = self.op("Neg", [self.batch], name="batch.negative")
        return self.constants["batch.negative"]

    def pixels(
        self, x: ir.Value, size: tuple[int, int], channels: int, name: str, *, relu: str | None = None
    ) -> ir.Value:
        """Pixels, as Linear layers give them, to a map [B, C, h, w]."""
        x = self.reshape(x, self.layout.pixels(size, channels), f"{name}.split")
        if relu is not None:
            x = self.op("Relu", [x], name=relu)
        perm = self.layout.perm(self.layout.pixel_axes + "C", "BChw")
        return self.op("Transpose", [x], {"perm": perm}, name=name)

    def rows(self, x: ir.Value, size: tuple[int, int], channels: int, name: str) -> ir.Value:
        """A map [B, C, h, w] to pixels as Linear layers take them."""
        perm = self.layout.perm("BChw", self.layout.pixel_axes + "C")
        x = self.op("Transpose", [x], {"perm": perm}, name=f"{name}.transpose")
        return self.reshape(x, self.layout.joined(size[0] * size[1], channels), name)

    def squares(
        self, x: ir.Value, size: tuple[int, int], channels: int, name: str, *, as_rows: bool, relu: str
    ) -> ir.Value:
        """Squares of 2×2 pixels, C·2·2 as Linear layers give them, to a map [B, C, 2h, 2w] or to rows of its pixels."""
        (h, w), C, layout = size, channels, self.layout
        x = self.op("Relu", [self.reshape(x, layout.pixels(size, C, 2, 2), f"{name}.split")], name=relu)
        # p and q are the row and the column inside a square.
        pixels = layout.pixel_axes.replace("h", "hp").replace("w", "wq")
        given, wanted = layout.pixel_axes + "Cpq", pixels + "C" if as_rows else "BChpwq"
        shape = layout.joined(4 * h * w, C) if as_rows else (-1, C, 2 * h, 2 * w)
        perm = layout.perm(given, wanted)
        return self.reshape(self.op("Transpose", [x], {"perm": perm}, name=f"{name}.transpose"), shape, name)

    # Small helpers

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
