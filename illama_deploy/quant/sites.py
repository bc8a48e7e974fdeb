"""Sites: what can be quantized in a network, by module name.

They are its GEMMs, convolutions among them, and the ReLU behind each convolution whose patches overlap: integer kernels
of these put out integers, so that the values there need a step size, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from ..errors import RecipeError
from ..model.attention import MatMul
from ..model.network import Network

__all__ = ["Site", "find_sites", "select_sites"]


@dataclass(frozen=True)
class Site:
    """One GEMM, or a ReLU.

    Attributes:
        name: module name, such as `blocks.0.attn.qkv`.
        inputs: names of its activations: ("input",), or ("a", "b") for a product of two.
        weighted: whether one of its operands is a weight.
        overlaps: whether it belongs to a convolution whose patches overlap, which needs fixed step sizes.
    """

    name: str
    inputs: tuple[str, ...] = ("input",)
    weighted: bool = True
    overlaps: bool = False

    @property
    def is_product(self) -> bool:
        """Whether both operands are activations (the two products of attention)."""
        return len(self.inputs) == 2


def find_sites(model: Network) -> list[Site]:
    """All sites, in the order of the modules."""
    sites, modules = [], dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, MatMul):
            sites.append(Site(name, ("a", "b"), weighted=False))
        elif isinstance(module, nn.Linear | nn.ConvTranspose2d):
            sites.append(Site(name))
        elif isinstance(module, nn.Conv2d):
            sites.append(Site(name, overlaps=module.stride < module.kernel_size))
        elif isinstance(module, nn.ReLU):
            conv = modules.get(f"{name.rpartition('.')[0]}.conv")
            if isinstance(conv, nn.Conv2d) and conv.stride < conv.kernel_size:
                sites.append(Site(name, weighted=False, overlaps=True))
    return sites


def select_sites(
    sites: Sequence[Site], *, include: Sequence[str], exclude: Sequence[str], attention_products: bool
) -> list[Site]:
    """Choose sites by glob patterns on their names; an exclusion wins.

    The two products of attention take part only where `attention_products` says so.

    Raises:
        RecipeError: a pattern that matches no site.
    """
    candidates = [site for site in sites if attention_products or not site.is_product]
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(site.name, pattern) for site in sites):
            raise RecipeError(
                f"The pattern {pattern!r} matches no site.",
                hint="Sites are named " + ", ".join(dict.fromkeys(_generic(site.name) for site in sites)) + ".",
            )
    return [
        site
        for site in candidates
        if any(fnmatchcase(site.name, p) for p in include) and not any(fnmatchcase(site.name, p) for p in exclude)
    ]


def _generic(name: str) -> str:
    return ".".join("N" if part.isdigit() else part for part in name.split("."))
