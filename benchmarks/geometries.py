"""What the comparisons on the published geometries share: random weights at 224 px, our quantization, interleaving."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import timm
import torch
from torch import nn

import illama_deploy  # noqa: F401  (registers the models)
from illama_deploy.calib import Observed, collect_ranges, range_method
from illama_deploy.formats import Format, parse_format
from illama_deploy.measure import median_ratio
from illama_deploy.quant import find_sites, quantize_network, select_sites
from illama_deploy.quant.quality import sqnr_db
from illama_deploy.recipe import Recipe
from illama_deploy.rewrites import apply_rewrites, rewrites_for
from illama_deploy.rounding import nearest
from illama_deploy.targets import TARGETS

Run = Callable[[np.ndarray], np.ndarray]


def random_network(size: str) -> tuple[nn.Module, torch.Tensor]:
    """A network of a published geometry and 16 images for calibration."""
    torch.manual_seed(0)
    return timm.create_model(f"illama_{size}").eval(), torch.randn(16, 3, 224, 224)


def float_network(model: nn.Module) -> nn.Module:
    """The network with the exact rewrites that pay in floating point too."""
    network = copy.deepcopy(model)
    apply_rewrites(network, ("fold_norms", "fold_attention_scale", "class_token_last_block"))
    return network


def quantized_network(
    model: nn.Module,
    images: torch.Tensor,
    format_: Format | str = "W8A8",
    *,
    attention_products: bool = False,
    rewrites: Sequence[str] = (),
) -> nn.Module:
    """The network quantized by the default recipe, with more rewrites behind its own."""
    format_ = parse_format(format_) if isinstance(format_, str) else format_
    recipe, network = Recipe(), copy.deepcopy(model)
    names = rewrites_for((*recipe.rewrites, *rewrites), network)
    apply_rewrites(network, names, lambda observed: Observed(observed, lambda: [images]))
    sites = select_sites(find_sites(network), include=["*"], exclude=[], attention_products=attention_products)
    thresholds = {}
    if format_.is_static:
        histograms = collect_ranges(network, {site.name: site.inputs for site in sites}, [images])
        method = range_method(recipe.range)
        thresholds = {name: method(histogram, format_.activations) for name, histogram in histograms.items()}
    formats = {site.name: format_ for site in sites}
    quantize_network(network, sites, thresholds, formats, lambda w, dtype, group: nearest(w, dtype, group=group))
    return network


def write(network: nn.Module, target: str, path: Path) -> Path:
    """The target's file of a network."""
    ir.save(TARGETS[target].built(network), path)
    return path


def openvino_session(model: object, threads: int, hint: str) -> Run:
    """Run a file (or an OpenVINO model) in OpenVINO on the CPU."""
    import openvino as ov

    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    return lambda x: np.array(next(iter(request.infer({0: x}).values())))


def compare(runs: Mapping[str, Run], batch: int, seconds: float) -> dict[str, object]:
    """Time all in turns in this process; the ratio of each to the last (above 1: the last is faster)."""
    x = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for name in names:
        runs[name](x)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i in np.random.default_rng().permutation(len(names)):
            start = time.perf_counter()
            runs[names[i]](x)
            times[names[i]].append(time.perf_counter() - start)
    ours = np.array(times[names[-1]])
    return {name: median_ratio(np.array(times[name]), ours) for name in names[:-1]} | {"rounds": len(ours)}


def logit_sqnr(run: Run, model: nn.Module) -> float:
    """dB of a run's logits against the float network's, on 8 images that calibration has not seen."""
    x = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        reference = model(x).double().numpy()
    return sqnr_db(float((reference**2).sum()), float(((run(x.numpy()) - reference) ** 2).sum()))
