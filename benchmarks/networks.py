"""timm's vision transformers: which are read and why others are not, and how near the networks here are to timm's.

    python benchmarks/networks.py --out illama-out/networks --page benchmarks/networks.md

Every name of the modules that are looked at is made without values and read. Of some, every parameter is made random
and logits are compared: in float64 and float32, centred, and rotated. Run again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from illama_deploy.environment import describe_environment
from illama_deploy.model.families import build_network
from illama_deploy.model.timm_vits import UnsupportedError, covered_modules, read_timm
from illama_deploy.model.vit import VitConfig
from illama_deploy.rewrites import apply_rewrites, rewrites_for

#: Compared with timm: of every kind, at their own width and depth.
COMPARED = (
    "vit_tiny_patch16_224",
    "vit_tiny_patch16_384",
    "vit_small_patch16_224",
    "vit_small_patch32_384",
    "vit_base_patch32_224",
    "vit_base_patch16_224",
    "vit_large_patch32_384",
    "flexivit_small",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch14_reg1_tipsv2",
    "vit_xsmall_patch16_clip_224",
    "vit_base_patch32_clip_224",
    "vit_base_patch32_clip_quickgelu_224",
    "vit_base_patch16_siglip_gap_224",
    "vit_base_patch32_siglip_gap_256",
    "vit_base_patch16_gap_224",
    "vit_wee_patch16_reg1_gap_256",
    "vit_little_patch16_reg4_gap_256",
    "vit_so150m_patch16_reg4_gap_256",
    "test_vit4",
    "beit3_base_patch16_224",
    "deit_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "eva_large_patch14_196",
    "eva02_tiny_patch14_336",
    "eva02_base_patch14_224",
    "eva02_base_patch16_clip_224",
    "vit_small_patch16_dinov3",
    "vit_small_plus_patch16_dinov3_qkvb",
    "vit_small_patch16_lingbot",
    "vit_medium_patch16_rope_reg1_gap_256",
    "vit_small_patch16_rope_224",
    "vit_small_patch16_rope_mixed_ape_224",
)
#: Parameters times tokens of a network that is compared at its own image size; larger ones at so many patches.
LARGEST = 5e9
FEW, OTHER = (4, 4), (3, 5)
FOLDS = ("fold_norms", "fold_attention_scale", "class_token_last_block")


class Journal:
    """Lines of JSON that are there already, and those that come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}

    def row(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is known under a key, or made now."""
        if key not in self.rows:
            self.rows[key] = {"key": key, **make()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.rows[key]) + "\n")
            print(*self.rows[key].values(), flush=True)
        return self.rows[key]


def walked(name: str) -> dict[str, Any]:
    """What is read of a name, or why not; `fault` where something else than that came up."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
        reading = read_timm(name, model)
        with torch.device("meta"):
            network = build_network(reading.config)
        given = {key: tensor.shape for key, tensor in reading.translate(model.state_dict()).items()}
        if given != {key: tensor.shape for key, tensor in network.state_dict().items()}:
            return {"fault": "its tensors do not fit"}
    except UnsupportedError as error:
        return {"reason": str(error)}
    except Exception as error:
        return {"fault": f"{type(error).__name__}: {error}"}
    return {"geometry": said(reading.config), "millions": sum(p.numel() for p in model.parameters()) / 1e6}


def said(config: VitConfig) -> list[str]:
    """A geometry in short, a text for each column of the page."""
    pools = {
        "class": "class token",
        "both": "two tokens",
        "mean": "mean of norms",
        "mean_first": "norm of the mean",
    }
    height, width = config.image_size
    positions = ["learned"] * config.positions
    positions += {"none": [], "shared": ["rotary"], "mixed": ["rotary of each head"]}[config.rotary]
    norms = [f"{ {'layer': 'LayerNorm', 'rms': 'RMSNorm'}[config.norm] } {config.eps:.0e}".replace("e-0", "e-")]
    norms += ["in front"] * config.entry + ["in attention"] * config.attention_norm + ["in the FFN"] * config.ffn_norm
    return [
        f"{config.dim}×{config.depth}, {config.heads}",
        f"{height}" if height == width else f"{height}×{width}",
        f"{config.patch_size}",
        f"{config.others}",
        " and ".join(positions) or "none",
        f"{config.hidden} {config.activation.replace('_', ' ')}{', gated' * config.gated}",
        ", ".join(norms),
        "yes" if config.layer_scale else "no",
        pools[config.pool] + (", features" if config.features else ""),
    ]


def randomised(model: nn.Module) -> nn.Module:
    """The network, every parameter moved: biases, scales and norms that training would have moved, too."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        loud = 0.05 if name == "rope.freqs" else 0.1 if parameter.ndim == 1 else 0.02
        parameter.add_(torch.randn(parameter.shape, generator=generator) * loud)
    return model.eval()


@torch.no_grad()
def compared(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Largest differences of logits: from timm's in both types, and of rewritten networks in float64."""
    model = randomised(timm.create_model(name, img_size=size)).double()
    reading = read_timm(name, model)
    network = build_network(reading.config).double().eval()
    network.load_state_dict(reading.translate(model.state_dict()))
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, reading.config.channels, *size, generator=generator, dtype=torch.float64)
    theirs, ours = model(images), network(images)
    row = {"largest": float(theirs.abs().max()), "float64": float((ours - theirs).abs().max())}
    apply_rewrites(network, rewrites_for(FOLDS, network))
    row["centred"] = float((network(images) - theirs).abs().max())
    apply_rewrites(network, ("rotate_residual", "rotate_values"))
    row["rotated"] = float((network(images) - theirs).abs().max())
    del network
    model.float()
    reading = read_timm(name, model)
    network = build_network(reading.config).eval()
    network.load_state_dict(reading.translate(model.state_dict()))
    row["float32"] = float((network(images.float()) - model(images.float())).abs().max())
    return row


def sizes(name: str) -> Iterator[tuple[int, int]]:
    """Image sizes at which a network is compared: its own where that is small, and one that is no square."""
    with torch.device("meta"):
        model = timm.create_model(name)
    config = read_timm(name, model).config
    cost = sum(parameter.numel() for parameter in model.parameters()) * config.tokens
    patch = config.patch_size
    yield config.image_size if cost <= LARGEST else (FEW[0] * patch, FEW[1] * patch)
    yield OTHER[0] * patch, OTHER[1] * patch


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def page(names: dict[str, Journal], parity: Journal) -> str:
    """All that is known, as Markdown."""
    environment = describe_environment()
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in ("torch", "timm"))
    rows = {module: list(journal.rows.values()) for module, journal in names.items()}
    everything = [row for found in rows.values() for row in found]
    covered = [row for row in everything if "geometry" in row]
    faults = [row for row in everything if "fault" in row]
    lines = [
        "# timm's vision transformers",
        "",
        f"{date.today()}, {environment['cpu']}, {environment['cores']} cores; {versions}.",
        "",
        "    python benchmarks/networks.py --out illama-out/networks --page benchmarks/networks.md",
        "",
        f"Of {len(everything)} names, {len(covered)} are read, {len(everything) - len(covered) - len(faults)} are "
        f"refused with a reason, and {len(faults)} end in anything else.",
        "",
        *table(["module", "names", "read", "not read"], [[f"`{module}`", *counts(rows[module])] for module in rows]),
    ]
    lines += [*parity_part(parity), *refused_part(everything), *covered_part(rows)]
    return "\n".join(lines) + "\n"


def counts(rows: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    """How many there are, how many of them are read, and how many are not."""
    read = sum("geometry" in row for row in rows)
    return str(len(rows)), str(read), str(len(rows) - read)


def parity_part(parity: Journal) -> list[str]:
    """The table of differences."""
    rows = list(parity.rows.values())
    kinds = ("float64", "float32", "centred", "rotated")
    worst = {kind: max((row[kind] for row in rows), default=0.0) for kind in kinds}
    body = [
        [f"`{row['name']}`", row["size"], f"{row['largest']:.1f}", *(f"{row[kind]:.1e}" for kind in kinds)]
        for row in rows
    ]
    return [
        "",
        "## The same logits",
        "",
        f"Largest difference of a logit, {len({row['name'] for row in rows})} networks of timm's width and depth with "
        "random values, two images. float64 and float32: from timm's network in the same type. centred: LayerScale "
        "folded, LayerNorms made RMSNorms, norms and attention scale folded, the class token alone asking in the last "
        "block; rotated: the residual stream and values turned too; both in float64, from timm's network. Networks too "
        "large for their own image size have 4×4 patches; the second size is 3×5 patches.",
        "",
        *table(["network", "image", "largest logit", *kinds], body),
        "",
        "Worst: " + ", ".join(f"{kind} {worst[kind]:.1e}" for kind in kinds) + ".",
    ]


def refused_part(everything: Sequence[dict[str, Any]]) -> list[str]:
    """Reasons, with the names that have them."""
    reasons: dict[str, list[str]] = {}
    for row in everything:
        if "geometry" not in row:
            text = row["reason"] if "reason" in row else f"**{row['fault']}**"
            reasons.setdefault(text, []).append(f"`{row['key']}`")
    ordered = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    body = [[reason, str(len(found)), ", ".join(found)] for reason, found in ordered]
    return ["", "## Not read", "", *table(["reason", "names", "which"], body)]


def covered_part(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The geometries of what is read."""
    head = ["network", "M", "width×depth, heads", "image", "patch", "tokens in front", "positions", "FFN", "norms"]
    head += ["LayerScale", "reads"]
    lines = ["", "## Read"]
    for module, found in rows.items():
        body = [[f"`{r['key']}`", f"{r['millions']:.1f}", *r["geometry"]] for r in found if "geometry" in r]
        if body:
            lines += ["", f"### `{module}`", "", *table(head, body)]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("illama-out/networks"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    names = {}
    for module in covered_modules():
        names[module] = Journal(options.out / f"{module}.jsonl")
        for name in timm.list_models(module=module):
            names[module].row(name, lambda name=name: walked(name))
    parity = Journal(options.out / "parity.jsonl")
    for name in COMPARED:
        for height, width in sizes(name):
            size = f"{height}×{width}"
            parity.row(
                f"{name} {size}",
                lambda name=name, height=height, width=width, size=size: {
                    "name": name,
                    "size": size,
                    **compared(name, (height, width)),
                },
            )
    text = page(names, parity)
    if options.page:
        options.page.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
