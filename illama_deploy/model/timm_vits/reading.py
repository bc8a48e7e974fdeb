"""What all of timm's vision transformers have in common, and how their tensors become those of `Vit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.layers import GluMlp, LayerNorm, Mlp, PatchEmbed, QuickGELU, RmsNorm, SwiGLU
from timm.layers.activations import GELU, GELUTanh
from torch import Tensor, nn

from ..vit import VitConfig
from ..vit.config import Activation, Pool

__all__ = ["Common", "Reader", "Reading", "UnsupportedError", "read_common", "read_ffn", "require"]

State = Mapping[str, Tensor]


class UnsupportedError(Exception):
    """A network that is not covered; the text says what it has, in half a sentence."""


@dataclass(frozen=True)
class Reading:
    """What a network of timm's is.

    Attributes:
        translate: its state, timm's keys, to the state of our network, each tensor in the type that it has.
    """

    config: VitConfig
    translate: Callable[[State], dict[str, Tensor]]


@dataclass(frozen=True)
class Reader:
    """How one class of timm's is read.

    Attributes:
        kind: the class; subclasses are other networks.
        read: (architecture, network) to what it is. Raises `UnsupportedError`.
        convert: timm's own conversion of (a state dict, network): keys of other layouts, and the position embedding
            brought to the network's size.
    """

    kind: type[nn.Module]
    read: Callable[[str, Any], Reading]
    convert: Callable[[dict[str, Tensor], Any], dict[str, Tensor]]


def require(condition: bool, otherwise: str) -> None:
    """Raise `UnsupportedError` where a condition does not hold."""
    if not condition:
        raise UnsupportedError(otherwise)


def present(module: nn.Module | None) -> bool:
    """Whether a module is there and does something."""
    return module is not None and not isinstance(module, nn.Identity)


def activation_of(module: nn.Module) -> Activation:
    """Our name of an activation."""
    if isinstance(module, nn.SiLU):
        return "silu"
    if isinstance(module, GELUTanh) or (isinstance(module, nn.GELU) and module.approximate == "tanh"):
        return "gelu_tanh"
    if isinstance(module, nn.GELU | GELU):
        return "gelu"
    if isinstance(module, QuickGELU):
        return "quick_gelu"
    raise UnsupportedError(f"its FFN has the activation {type(module).__name__}")


def read_ffn(mlp: Any) -> dict[str, Any]:
    """Fields of the geometry that an FFN says."""
    require(type(mlp) in (Mlp, GluMlp, SwiGLU), f"its FFN is a {type(mlp).__name__}")
    gated = not isinstance(mlp, Mlp)
    layer = mlp.fc1_x if isinstance(mlp, SwiGLU) else mlp.fc1
    require(isinstance(layer, nn.Linear), "its FFN is made of convolutions")
    packed = isinstance(mlp, GluMlp)
    return {
        "hidden": layer.out_features // (2 if packed else 1),
        "activation": activation_of(mlp.act),
        "gated": gated,
        "ffn_norm": present(mlp.norm),
    }


def translate_ffn(mlp: nn.Module, state: State, old: str, new: str) -> dict[str, Tensor]:
    """Tensors of an FFN."""
    made = linear(state, f"{old}fc2", f"{new}fc2") | norm(state, f"{old}norm", f"{new}norm")
    if isinstance(mlp, SwiGLU):
        return made | linear(state, f"{old}fc1_g", f"{new}fc1") | linear(state, f"{old}fc1_x", f"{new}fc3")
    front = linear(state, f"{old}fc1", f"{new}fc1")
    if not isinstance(mlp, GluMlp):
        return made | front
    for kind in ("weight", "bias"):
        halves = front.pop(f"{new}fc1.{kind}").chunk(2)
        gate, up = reversed(halves) if mlp.gate_last else halves
        made[f"{new}fc1.{kind}"], made[f"{new}fc3.{kind}"] = gate.contiguous(), up.contiguous()
    return made


def linear(state: State, old: str, new: str) -> dict[str, Tensor]:
    """A layer's weight, and its bias, which is 0 where there is none."""
    weight = state[f"{old}.weight"]
    bias = state.get(f"{old}.bias")
    return {f"{new}.weight": weight, f"{new}.bias": weight.new_zeros(len(weight)) if bias is None else bias}


def norm(state: State, old: str, new: str) -> dict[str, Tensor]:
    """A norm's tensors, where there is one."""
    return {f"{new}.{kind}": state[f"{old}.{kind}"] for kind in ("weight", "bias") if f"{old}.{kind}" in state}


def identity(new: str, like: Tensor) -> dict[str, Tensor]:
    """A layer that changes nothing, as wide as a tensor [..., E]."""
    width = like.shape[-1]
    eye = torch.eye(width, dtype=like.dtype, device=like.device)
    return {f"{new}.weight": eye, f"{new}.bias": like.new_zeros(width)}


@dataclass(frozen=True)
class Common:
    """What is read in the same way of both classes.

    Attributes:
        last: name of the last norm.
        learned: parameters of the tokens in front of the image tokens, in their order.
        bare: whether the position embedding has no rows for these tokens.
    """

    config: VitConfig
    last: str
    learned: tuple[str, ...]
    bare: bool

    def translate(self, state: State) -> dict[str, Tensor]:
        """All but the blocks and the heads."""
        config = self.config
        made = linear(state, "patch_embed.proj", "patch_embed.proj")
        if self.learned:
            made["other_tokens"] = torch.cat([state[name] for name in self.learned], 1)
        if config.positions:
            positions = state["pos_embed"]
            if self.bare and config.others:
                positions = torch.cat((positions.new_zeros(1, config.others, config.dim), positions), 1)
            made["pos_embed"] = positions
        if config.entry:
            made |= norm(state, "norm_pre", "entry.norm") | identity("entry.write", state["norm_pre.weight"])
        return made | norm(state, self.last, "norm")


def read_common(name: str, model: Any, ffn: Mapping[str, Any], learned: tuple[str, ...]) -> Common:
    """What both classes say of themselves in the same way.

    Args:
        ffn: fields that the blocks say.

    Raises:
        UnsupportedError: something is not covered.
    """
    patches = model.patch_embed
    require(type(patches) is PatchEmbed, f"its patches are made by {type(patches).__name__}")
    require(not present(patches.norm), "there is a norm behind its patches")
    height, width = patches.patch_size
    require(height == width, f"its patches are no squares ({height}×{width})")
    require(
        not any(side % height for side in patches.img_size),
        f"images of {patches.img_size[0]}×{patches.img_size[1]} px are no whole number of its patches of {height}",
    )
    require(not getattr(model, "pool_include_prefix", False), "it pools the class token and registers with the image")
    pools: dict[str, Pool] = {"token": "class", "avg": "mean"}
    require(model.global_pool in pools, f"its tokens are pooled by {model.global_pool or 'nothing'!r}")
    require(present(model.norm) or present(model.fc_norm), "it has no norm behind its last block")
    require(not (present(model.norm) and present(model.fc_norm)), "it has two norms behind its last block")
    first, pool = present(model.fc_norm), pools[model.global_pool]
    last = model.fc_norm if first else model.norm
    others = model.num_prefix_tokens
    try:
        config = VitConfig(
            architecture=name,
            dim=model.embed_dim,
            depth=len(model.blocks),
            image_size=tuple(patches.img_size),
            patch_size=height,
            channels=patches.proj.in_channels,
            classes=model.num_classes or model.embed_dim,
            features=not model.num_classes,
            others=others,
            positions=model.pos_embed is not None,
            entry=present(model.norm_pre),
            norm=_kind_of_norm(last),
            eps=last.eps,
            pool="mean_first" if pool == "mean" and first else pool,
            **ffn,
        )
    except ValueError as error:  # timm drops what is left of an image beside its patches, and knows odd heads
        raise UnsupportedError(str(error)) from error
    for where, one in model.named_modules():
        if "norm" in where.rpartition(".")[2] and present(one):
            require(
                _kind_of_norm(one) == config.norm and one.eps == config.eps,
                f"its norms differ ({where} is another than the last one)",
            )
    return Common(config, "fc_norm" if first else "norm", learned, model.no_embed_class)


def _kind_of_norm(module: nn.Module) -> Any:
    if isinstance(module, nn.LayerNorm | LayerNorm):
        require(module.elementwise_affine, "a LayerNorm of it has no weights")
        require(module.bias is not None, "a LayerNorm of it has no biases")
        return "layer"
    if isinstance(module, RmsNorm):
        require(module.elementwise_affine, "an RmsNorm of it has no weights")
        return "rms"
    raise UnsupportedError(f"it has a {type(module).__name__}")


def with_rotary(common: Common, kind: Any) -> Common:
    """The same with rotary embedding."""
    return replace(common, config=replace(common.config, rotary=kind))
