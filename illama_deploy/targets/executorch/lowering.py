"""Lower a network to an ExecuTorch program whose only computation is one call of the XNNPACK delegate.

What is lowered is the network's `Structure`. One image at a time, every shape fixed. Tokens are the rows of a matrix
[S, E]; the two halves of a head hold what were its even and its odd channels, so that rotary embedding needs no
strides. Means, of norms and of tokens, are GEMMs, since the delegate has no other mean of a matrix.

The delegate's integer GEMMs quantize each row of their input themselves, from its least and largest value. A network of
static step sizes keeps its own integers all the same: a row is clipped to what its step size can hold, and given two
more columns, with the ends of that range, which meet weights of 0. The step size that the delegate then finds is the
network's, and its zero point is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ExportError, UsageError, parameter
from ...formats import IntType
from ...model.activations import ACTIVATIONS
from ...model.attention import Attention
from ...model.network import Network
from ...model.norm import RMSNorm
from ...model.structure import AttentionParts, BlockParts, FfnParts, Outlet
from ...quant.modules import QuantMatMul, QuantWeighted
from ...rewrites import OnlineRotation, with_needed_rewrites
from .network import QMAX, QMIN, PerToken, pinned
from .quiet import quiet

__all__ = ["gemm_names", "lower"]

#: Widths of integer weights that the delegate has kernels for; narrower ones are stored in the first that holds them.
WIDTHS = (4, 8)
#: What names of GEMMs without a site end with: means of squares, of channels and of tokens, and rotations.
MEAN, CENTRE, POOL, ROTATE = ".mean", ".centre", ".pool", ".rotate"
WITHOUT_SITE = (MEAN, CENTRE, POOL, ROTATE)
#: GELU by tanh: u = slope · (x + cube · x³).
GELU_SLOPE, GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


def lower(network: Network, *, watch: bool = False) -> tuple[bytes, list[str]]:
    """Make the bytes of a `.pte` whose method `forward` takes one image [1, C, H, W] and gives logits [1, classes].

    Args:
        network: float, or quantized in formats that the delegate has kernels for (see `per_token`).
        watch: give the output [rows, channels] of every GEMM of weights as well, in order of execution.

    Returns:
        The file's bytes, and the module names of the method's outputs, logits first: the head's, or, where several add
        up to the logits, the network's own ("").

    Raises:
        UsageError: a network, or a format, that the delegate cannot run.
        ExportError: not everything became part of the delegate.
    """
    _require(network)
    _require_sound(network)
    network = with_needed_rewrites(network)
    config = network.config
    with torch.no_grad(), quiet():
        lowered = _Network(network, watch).eval()
        image = torch.zeros(1, config.channels, *config.image_size)
        program = _compile(lowered, image)
    watched = _watched_names(network)
    logits = watched.pop() if len(network.outlets) == 1 else ""
    return program, [logits, *watched] if watch else [logits]


def _watched_names(network: Network) -> list[str]:
    """Names of the GEMMs of weights, in order of execution."""
    return [name for name in gemm_names(network) if not name.endswith(WITHOUT_SITE)]


def gemm_names(network: Network) -> tuple[str, ...]:
    """Names of all GEMMs with a constant, in the order in which the lowered program runs them: those of weights by
    their modules' names, the means of norms and of tokens, and online rotations."""
    structure = network.structure
    made = [structure.embedding.patches]

    def turned(places: dict[str, str]) -> list[str]:
        return [f"{x}{ROTATE}" for x, at in places.items() if isinstance(network.get_submodule(at), OnlineRotation)]

    def inner(norm: str | None) -> list[str]:
        if norm is None:
            return []
        centred = isinstance(network.get_submodule(norm), nn.LayerNorm)
        return [*([f"{norm}{CENTRE}"] if centred else []), f"{norm}{MEAN}"]

    if structure.embedding.entry is not None:
        made += [f"{structure.embedding.entry.norm}{MEAN}", structure.embedding.entry.place]
    for block in structure.blocks:
        attn, ffn = block.attention, block.ffn
        made += [f"{block.attention_read.norm}{MEAN}", attn.qkv]
        made += turned({f"{attn.name}.q": attn.rotate_q, f"{attn.name}.k": attn.rotate_k})
        made += [*inner(attn.norm), attn.proj, f"{block.ffn_read.norm}{MEAN}", *ffn.reads]
        made += [*inner(ffn.norm), *turned({f"{ffn.name}.product": ffn.rotate}), ffn.down]
    for outlet in structure.outlets:
        steps = {"before": (POOL, MEAN), "no": (MEAN,), "after": (MEAN, POOL)}[outlet.mean]
        made += [*(f"{outlet.read.norm}{step}" for step in steps), outlet.read.place]
    return tuple(made)


def _require(network: Network) -> None:
    config = network.config
    for block in network.structure.blocks:
        if block.ffn.activation not in SPELLED:
            raise UsageError(
                f"XNNPACK has no operators for the activation {block.ffn.activation}.",
                where=block.ffn.name,
                hint="Export for another target.",
            )
    last = len(network.structure.blocks) - 1
    if config.head_width or not config.classes or any(outlet.block != last for outlet in network.outlets):
        raise UsageError(
            "ExecuTorch programs are made of classifiers of whole images only.",
            where="head",
            hint="Export a network with a UperNet head for another target.",
        )
    for name, module in network.named_modules():
        if isinstance(module, QuantMatMul):
            raise UsageError(
                "XNNPACK has no integer product of two activations.",
                where=name,
                hint="Quantize without attention products, or export for another target.",
            )
        if isinstance(module, QuantWeighted) and not _has_kernel(module):
            raise UsageError(
                f"XNNPACK has no kernel for {module.format.name} here.",
                where=name,
                hint=f"Use W8A8, W8A8-dynamic or W4A8 ({parameter('format')}), or export for another target.",
            )


def _require_sound(network: Network) -> None:
    """Refuse numbers that no file may hold."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ExportError(f"{name} is not finite.", where=name, hint=f"Quantize again; see {parameter('exclude')}.")
        if name.endswith("_scale") and not bool((tensor > 0).all()):
            raise ExportError(
                f"{name} is a scale and not above 0.", where=name, hint=f"Quantize again; see {parameter('exclude')}."
            )


def _has_kernel(module: QuantWeighted) -> bool:
    weights = module.format.weights
    whole = module.weight_scale.ndim == 1 and isinstance(weights, IntType) and weights.bits <= max(WIDTHS)
    return whole and (pinned(module) or isinstance(module, PerToken))


# --- the network in the operators that the delegate has


class _Gemm(nn.Module):
    """A GEMM of weights and the rows of a matrix, in floating point or on integers."""

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None
    zero: Tensor | None
    ends: Tensor

    def __init__(self, site: str, shared: _Shared, rows: int, order: Tensor | None = None) -> None:
        """Take over a site's weight, with its rows in an order if one is given, for an input of so many rows."""
        super().__init__()
        module = shared.network.get_submodule(site)
        integer = isinstance(module, QuantWeighted)
        weight = cast(Tensor, module.weight_q if integer else module.weight).detach().flatten(1)
        bias = cast(Tensor | None, module.float_bias if integer else module.bias)
        scale = cast(Tensor, module.weight_scale) if integer else None
        self.limit: float | None = None
        if isinstance(module, QuantWeighted):
            bits = next(width for width in WIDTHS if width >= module.format.weights.bits)
            self.low, self.high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            if pinned(module):
                assert module.input_scale is not None
                self.limit = float(module.input_scale)
                self.clip = (module.activations.qmin * self.limit, module.activations.qmax * self.limit)
                ends = torch.tensor([QMIN * self.limit, QMAX * self.limit]).expand(rows, 2)
                self.register_buffer("ends", shared.constant(ends))
                weight = F.pad(weight, (0, 2))
        if order is not None:
            weight = weight[order]
            bias, scale = (None if each is None else each[order] for each in (bias, scale))
        self.register_buffer("weight", weight.clone().contiguous())
        self.register_buffer("scale", None if scale is None else scale.clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.register_buffer("zero", None if scale is None else torch.zeros(len(scale), dtype=torch.int64))

    def prepare(self, x: Tensor) -> Tensor:
        """The rows as the GEMM takes them; GEMMs of equal step sizes share them."""
        if self.scale is None:
            return x
        if self.limit is not None:
            x = torch.cat((F.hardtanh(x, *self.clip), self.ends), 1)
        ops = torch.ops.quantized_decomposed
        scale, zero = ops.choose_qparams_per_token_asymmetric.default(x, torch.int8)
        x = ops.quantize_per_token(x, scale, zero, QMIN, QMAX, torch.int8)
        return ops.dequantize_per_token(x, scale, zero, QMIN, QMAX, torch.int8, torch.float32)

    def multiply(self, x: Tensor) -> Tensor:
        """The GEMM on prepared rows."""
        weight = self.weight
        if self.scale is not None:
            dequantize = torch.ops.quantized_decomposed.dequantize_per_channel
            weight = dequantize(weight, self.scale, self.zero, 0, self.low, self.high, torch.int8)
        return F.linear(x, weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(self.prepare(x))


class _Norm(nn.Module):
    """An RMSNorm, or a LayerNorm, which is one of centred rows."""

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    eps: Tensor

    def __init__(self, name: str, shared: _Shared) -> None:
        super().__init__()
        norm = cast(RMSNorm | nn.LayerNorm, shared.network.get_submodule(name))
        weight = norm.weight.detach()
        bias = norm.bias.detach() if isinstance(norm, nn.LayerNorm) else None
        self.centred = bias is not None
        self.register_buffer("weight", None if bool((weight == 1).all()) else weight.clone())
        self.register_buffer("bias", None if bias is None or not bool(bias.any()) else bias.clone())
        self.register_buffer("mean", shared.mean(len(weight)))
        self.register_buffer("eps", torch.full((1,), norm.eps))

    def forward(self, x: Tensor) -> Tensor:
        if self.centred:
            x = x - F.linear(x, self.mean)
        x = x * torch.rsqrt(F.linear(x * x, self.mean, self.eps))
        x = x if self.weight is None else x * self.weight
        return x if self.bias is None else x + self.bias


class _Attention(nn.Module):
    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    turn_q: Tensor | None
    turn_k: Tensor | None

    def __init__(self, parts: AttentionParts, shared: _Shared) -> None:
        super().__init__()
        attn = cast(Attention, shared.network.get_submodule(parts.name))
        self.heads, self.size, self.scale, self.rope = attn.heads, attn.head_dim, attn.scale, attn.rope
        self.asking, self.asked = attn.asking, len(range(shared.tokens)[attn.asking])
        self.qkv = _Gemm(parts.qkv, shared, shared.tokens, shared.order)
        self.proj = _Gemm(parts.proj, shared, self.asked)
        if self.rope:
            cos, sin = attn.tables()
            self.register_buffer("cos", shared.constant(torch.cat((cos, cos), -1)))
            self.register_buffer("sin", shared.constant(torch.cat((-sin, sin), -1)))
        for name, place in (("turn_q", parts.rotate_q), ("turn_k", parts.rotate_k)):
            self.register_buffer(name, shared.rotation(place, inside=shared.halves))
        mask, self.added = attn.hidden(), attn.mask == "additive"
        self.register_buffer("mask", None if mask is None else shared.constant(mask))
        self.norm = nn.Identity() if parts.norm is None else _Norm(parts.norm, shared)

    def forward(self, x: Tensor, watched: list[Tensor]) -> Tensor:
        y = self.qkv(x)
        watched.append(y)
        width = self.heads * self.size
        q, k, v = (
            part.reshape(-1, self.heads, self.size).permute(1, 0, 2)
            for part in (y[self.asking, :width], y[:, width : 2 * width], y[:, 2 * width :])
        )
        if self.rope:
            q, k = self._turn(q, self.asking), self._turn(k, slice(None))
        q = q if self.turn_q is None else _rotated(q, self.turn_q)
        k = k if self.turn_k is None else _rotated(k, self.turn_k)
        scores = torch.bmm(q, k.permute(0, 2, 1))
        scores = scores if self.scale == 1.0 else scores * self.scale
        if self.mask is None:
            shares = scores.softmax(-1)
        else:
            shares = (scores + self.mask).softmax(-1) if self.added else scores.softmax(-1) * self.mask
        o = self.proj(self.norm(torch.bmm(shares, v).permute(1, 0, 2).reshape(self.asked, width)))
        watched.append(o)
        return o

    def _turn(self, x: Tensor, at: slice) -> Tensor:
        """Rotary embedding of heads [H, S, D] in halves, at these positions."""
        half = self.size // 2

        def of(table: Tensor) -> Tensor:  # a slice of everything is no operator of the delegate
            return table if at == slice(None) else table[..., at, :]

        return x * of(self.cos) + torch.cat((x[..., half:], x[..., :half]), -1) * of(self.sin)


def _tanh_gelu(x: Tensor) -> Tensor:
    """0.5 x (1 + tanh u) is x sigmoid(2 u). The delegate's own GELU is that of erf, whichever was asked for."""
    return x * torch.sigmoid(x * (x * x * (2 * GELU_SLOPE * GELU_CUBE) + 2 * GELU_SLOPE))


#: `ACTIVATIONS` in the delegate's operators.
SPELLED: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: ACTIVATIONS[name] for name in ("silu", "gelu", "quick_gelu")},
    "gelu_tanh": _tanh_gelu,
}


class _Ffn(nn.Module):
    turn: Tensor | None

    def __init__(self, parts: FfnParts, shared: _Shared, rows: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = (_Gemm(site, shared, rows) for site in (parts.reads[0], parts.down))
        self.fc3 = None if parts.gate is None else _Gemm(parts.up, shared, rows)
        one, other = self.fc1, self.fc3
        self.together = other is not None and (one.limit, one.scale is None) == (other.limit, other.scale is None)
        self.activation = SPELLED[parts.activation]
        self.norm = nn.Identity() if parts.norm is None else _Norm(parts.norm, shared)
        self.register_buffer("turn", shared.rotation(parts.rotate))

    def forward(self, x: Tensor, watched: list[Tensor]) -> Tensor:
        one = self.fc1.prepare(x)
        a = self.fc1.multiply(one)
        watched.append(a)
        if self.fc3 is None:
            x = self.activation(a)
        else:
            b = self.fc3.multiply(one if self.together else self.fc3.prepare(x))
            watched.append(b)
            x = self.activation(a) * b
        x = self.norm(x)
        if self.turn is not None:
            x = _rotated(x, self.turn)
        y = self.fc2(x)
        watched.append(y)
        return y


class _Block(nn.Module):
    def __init__(self, parts: BlockParts, shared: _Shared) -> None:
        super().__init__()
        self.norm1, self.norm2 = (_Norm(read.norm, shared) for read in parts.reads)
        self.attn = _Attention(parts.attention, shared)
        self.mlp = _Ffn(parts.ffn, shared, self.attn.asked)

    def forward(self, x: Tensor, watched: list[Tensor]) -> Tensor:
        x = x[self.attn.asking] + self.attn(self.norm1(x), watched)
        return x + self.mlp(self.norm2(x), watched)


class _Outlet(nn.Module):
    """What leads out of the network: what a head reads [1, E], of the stream behind a block."""

    pool: Tensor | None

    def __init__(self, outlet: Outlet, shared: _Shared) -> None:
        super().__init__()
        structure = shared.structure
        self.norm = _Norm(outlet.read.norm, shared)
        self.averaged = outlet.mean
        own = slice(-1, None) if structure.class_index else slice(0, 1)
        self.read = {"class": own, "second": slice(1, 2), "image": structure.image_tokens}[outlet.tokens]
        many = shared.tokens - structure.others
        self.register_buffer("pool", None if outlet.mean == "no" else shared.mean(many))

    def forward(self, x: Tensor) -> Tensor:
        x = x[self.read]
        if self.averaged == "before":
            x = self._mean(x)
        x = self.norm(x)
        return self._mean(x) if self.averaged == "after" else x

    def _mean(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(1, 0), cast(Tensor, self.pool)).permute(1, 0)


class _Shared:
    """The network, and constants that all blocks read."""

    def __init__(self, network: Network) -> None:
        self.network, self.structure = network, network.structure
        config = network.config
        attn = cast(Attention, network.get_submodule(self.structure.blocks[0].attention.name))
        size, self.tokens = config.head_dim, config.tokens
        #: Channels of a head, the even ones first.
        self.halves = halves = torch.cat((torch.arange(0, size, 2), torch.arange(1, size, 2)))
        order = torch.arange(3 * config.dim).view(3, config.heads, size)
        if attn.rope:
            order[:2] = order[:2][..., halves]
        else:  # nothing turns
            self.halves = halves = torch.arange(size)
        #: Rows of qkv, with the channels of each query and key in halves.
        self.order, self.back = order.flatten(), torch.eye(size)[halves].T.contiguous()
        self._constants: list[Tensor] = []

    def constant(self, value: Tensor) -> Tensor:
        """One tensor for all constants of the same values."""
        for known in self._constants:
            if known.shape == value.shape and torch.equal(known, value):
                return known
        self._constants.append(value.contiguous().clone())
        return self._constants[-1]

    def mean(self, many: int) -> Tensor:
        """The weight of a GEMM that takes the mean of so many: [1, many]."""
        return self.constant(torch.full((1, many), 1 / many))

    def rotation(self, name: str, inside: Tensor | None = None) -> Tensor | None:
        """The weight of an online rotation as a GEMM; of heads whose channels stand in another order (`inside`), of
        whole heads in that order. None where there is none."""
        place = self.network.get_submodule(name)
        if not isinstance(place, OnlineRotation):
            return None
        matrix = place.matrix.T
        if inside is not None:
            matrix = torch.kron(torch.eye(place.width // place.block), matrix)[inside][:, inside]
        return self.constant(matrix)


def _rotated(x: Tensor, weight: Tensor) -> Tensor:
    """Rotate each block of the last axis."""
    return F.linear(x.reshape(-1, len(weight)), weight).reshape(x.shape)


class _Network(nn.Module):
    start: Tensor | None
    back: Tensor

    def __init__(self, network: Network, watch: bool) -> None:
        super().__init__()
        config, shared = network.config, _Shared(network)
        self.watch, self.size = watch, config.head_dim
        self.patch, self.grid = config.patch_size, config.grid
        structure = shared.structure
        others, entry = structure.others, structure.embedding.entry
        self.embed = _Gemm(structure.embedding.patches, shared, config.tokens - others)
        self.entry = None if entry is None else _Gemm(entry.place, shared, config.tokens)
        self.entry_norm = None if entry is None else _Norm(entry.norm, shared)
        # Constants lie in the file in the order of modules; in another, the same network would get another hash.
        self.heads = nn.ModuleList(_Gemm(outlet.read.place, shared, 1) for outlet in structure.outlets)
        self.blocks = nn.ModuleList(_Block(block, shared) for block in structure.blocks)
        self.outlets = nn.ModuleList(_Outlet(outlet, shared) for outlet in structure.outlets)
        self.room = (0, 0, 0, others) if structure.class_index else (0, 0, others, 0)
        self.register_buffer("start", _start(network))
        self.register_buffer("back", shared.back)
        turned = {block.attention.qkv for block in structure.blocks}
        self.turned = [i for i, name in enumerate(_watched_names(network)) if name in turned]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        (_, channels, _, _), (rows, columns) = images.shape, self.grid
        x = images.reshape(channels, rows, self.patch, columns, self.patch).permute(1, 3, 0, 2, 4)
        x = self.embed(x.reshape(rows * columns, -1))
        watched = [x]
        x = F.pad(x, self.room) if any(self.room) else x
        x = x if self.start is None else x + self.start
        if self.entry is not None and self.entry_norm is not None:
            x = self.entry(self.entry_norm(x))
            watched.append(x)
        for block in self.blocks:
            x = block(x, watched)
        found = [head(outlet(x)) for outlet, head in zip(self.outlets, self.heads, strict=True)]
        logits = sum(found[1:], start=found[0])
        if not self.watch:
            return (logits,)
        for i in self.turned:
            watched[i] = self._as_given(watched[i])
        return (logits, *watched, *(found if len(found) > 1 else ()))

    def _as_given(self, y: Tensor) -> Tensor:
        """Queries, keys and values with their channels in the order of the module that makes them."""
        width = 2 * y.shape[1] // 3
        pairs = F.linear(y[:, :width].reshape(-1, self.size), self.back)
        return torch.cat((pairs.reshape(len(y), width), y[:, width:]), 1)


def _start(network: Network) -> Tensor | None:
    """What is added to the rows of all tokens [S, E], of which those that are not of the image are 0 so far: positions,
    and these tokens themselves. None where there is neither."""
    structure, config = network.structure, network.config
    positions, others = structure.embedding.positions, structure.embedding.others
    if positions is None and others is None:
        return None
    if positions is None:
        start = torch.zeros(config.tokens, config.dim)
    else:
        start = network.get_parameter(positions).detach()[0].clone()
    if others is not None:
        many = structure.others
        start[slice(-many, None) if structure.class_index else slice(many)] += network.get_parameter(others).detach()[0]
    return start


# --- ExecuTorch


def _compile(lowered: nn.Module, image: Tensor) -> bytes:
    import torch.ao.quantization.fx._decomposed  # registers the operators
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    exported = torch.export.export(lowered, (image,))
    partitioner: Any = XnnpackPartitioner()
    edge: Any = to_edge_transform_and_lower(
        exported, partitioner=[partitioner], compile_config=EdgeCompileConfig(_check_ir_validity=False)
    )
    _demand_one_delegate(edge.exported_program().graph)
    return bytes(edge.to_executorch().buffer)


def _demand_one_delegate(graph: Any) -> None:
    calls = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    outside = [name for name in calls if name not in ("executorch_call_delegate", "<built-in function getitem>")]
    if outside or calls.count("executorch_call_delegate") != 1:
        raise ExportError(
            "Not everything became part of one XNNPACK delegate.",
            where=", ".join(outside[:5]) or None,
            hint="This version of ExecuTorch delegates differently; see 'illama-deploy doctor' for its number.",
        )
