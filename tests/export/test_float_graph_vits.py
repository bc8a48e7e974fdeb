"""The float graph of timm's networks, in the runtimes that it is written for, against timm."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from illama_deploy.export.float_graph import SITE, build_float_graph
from illama_deploy.export.layout import BATCH_MAJOR, SEQUENCE_MAJOR, Layout
from illama_deploy.model.families import build_network
from illama_deploy.model.vit import VitConfig
from illama_deploy.quant import find_sites
from illama_deploy.rewrites import apply_rewrites, rewrites_for

from ..vits import SPREAD, images_for, made, network_of
from .test_export import _run

#: What graphs have beside plain ones: the tokens that are read alone asking, and GEMMs that nothing carries.
REWRITES = {
    "plain": (),
    "rewritten": ("fold_norms", "fold_attention_scale", "class_token_last_block"),
    "rotated": ("class_token_last_block", "rotate_residual", "rotate_qk_online", "rotate_swiglu_online"),
}
GRID = (2, 3)
cases = pytest.mark.parametrize("case", SPREAD)
layouts = pytest.mark.parametrize("layout", [SEQUENCE_MAJOR, BATCH_MAJOR], ids=["sequence-major", "batch-major"])


def _networks(case: str, rewrites: str = "plain", images: int = 3) -> tuple[Any, torch.Tensor, np.ndarray]:
    """A network that was rewritten, images, and what timm's says of them."""
    name, changes = SPREAD[case]
    theirs = made(name, GRID, **changes)
    ours, x = network_of(name, theirs), images_for(theirs, images)
    apply_rewrites(ours, rewrites_for(REWRITES[rewrites], ours) if rewrites != "plain" else ())
    with torch.no_grad():
        return ours, x, theirs(x).numpy()


def _openvino(model: ir.Model, images: torch.Tensor) -> np.ndarray:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    graph = core.read_model(ir.to_proto(model).SerializeToString())
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled([images.numpy()])[0])


@pytest.mark.parametrize("rewrites", REWRITES)
@cases
def test_onnxruntime_gives_timms_logits(case: str, rewrites: str) -> None:
    ours, images, expected = _networks(case, rewrites)
    graph = build_float_graph(ours, SEQUENCE_MAJOR)
    for batch in (1, 3):
        np.testing.assert_allclose(_run(graph, images[:batch]), expected[:batch], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rewrites", REWRITES)
@cases
def test_openvino_gives_timms_logits(case: str, rewrites: str) -> None:
    ours, images, expected = _networks(case, rewrites)
    graph = build_float_graph(ours, BATCH_MAJOR)
    for batch in (1, 3):
        np.testing.assert_allclose(_openvino(graph, images[:batch]), expected[:batch], rtol=0, atol=1e-4)


@cases
def test_batches_of_more_images_than_tokens(case: str) -> None:
    """Tables of positions end with the tokens, not with a batch."""
    ours, images, expected = _networks(case, "rewritten", 13)
    graph = build_float_graph(ours, SEQUENCE_MAJOR)
    np.testing.assert_allclose(_run(graph, images), expected, rtol=0, atol=1e-4)


@layouts
@pytest.mark.parametrize("rewrites", REWRITES)
@cases
def test_the_graph_is_sound(case: str, rewrites: str, layout: Layout) -> None:
    ours, _, _ = _networks(case, rewrites)
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    graph = build_float_graph(ours, layout)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    assert {*before} == {*ours.state_dict()}, "the network itself was rewritten"
    assert all(torch.equal(tensor, before[key]) for key, tensor in ours.state_dict().items())
    names = Counter(node.name for node in graph.graph)
    assert names.most_common(1)[0][1] == 1
    sites = {node.metadata_props[SITE] for node in graph.graph if SITE in node.metadata_props}
    assert sites == {site.name for site in find_sites(ours)}
    assert [[*map(str, value.shape)] for value in graph.graph.outputs] == [["batch", str(ours.config.classes)]]


@layouts
@cases
def test_layer_norms_are_those_inside_branches(case: str, layout: Layout) -> None:
    """All of the stream are RMSNorms, whatever the network has."""
    ours, _, _ = _networks(case)
    kinds = Counter(node.op_type for node in build_float_graph(ours, layout).graph)
    inner = sum(len(block.inner_reads) for block in ours.structure.blocks)
    assert kinds["LayerNormalization"] == (inner if ours.config.norm == "layer" else 0)
    stream = len(ours.structure.reads) + (ours.structure.embedding.entry is not None)
    norms = stream + (0 if ours.config.norm == "layer" else inner)
    assert kinds["RMSNormalization" if layout.norm == "operator" else "Sqrt"] == norms


@pytest.mark.parametrize(
    ("case", "spelled"),
    [
        ("class token", {"Gelu none": 2}),
        ("mean of norms, no class token", {"Gelu tanh": 2}),
        ("entry norm, quick GELU", {"Sigmoid": 2}),
        ("gated, features", {"Sigmoid": 2}),
    ],
)
def test_activations_are_spelled_as_runtimes_fuse_them(case: str, spelled: dict[str, int]) -> None:
    found = Counter[str]()
    for node in build_float_graph(_networks(case)[0]).graph:
        if node.op_type == "Gelu":
            found[f"Gelu {node.attributes['approximate'].as_string()}"] += 1
        elif node.op_type == "Sigmoid":
            found["Sigmoid"] += 1
    assert found == spelled


@layouts
def test_rotary_tables_are_shared_where_they_are_one(layout: Layout) -> None:
    def tables(case: str) -> set[str]:
        graph = build_float_graph(_networks(case)[0], layout).graph
        return {name for name in graph.initializers if "rope." in name}

    shared, own = tables("no positions, rotary halves"), tables("rotary of each head")
    assert len(shared) == 2
    assert len(own) == 2 * 2  # of each block
    assert not any("blocks" in name for name in shared)


@layouts
@pytest.mark.parametrize("others", [0, 1, 5])
@torch.no_grad()
def test_pixels(others: int, layout: Layout) -> None:
    """A UperNet reads the image tokens alone."""
    pool = "class" if others else "mean"
    config = VitConfig("any", 64, 4, 4, (32, 48), 8, 3, 5, 128, head_width=8, others=others, rotary="mixed", pool=pool)
    model = build_network(config).eval()
    generator = torch.Generator().manual_seed(3)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2)
    images = torch.randn(3, 3, 32, 48, generator=generator)
    graph = build_float_graph(model, layout)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    for batch in (1, 3):
        expected = model(images[:batch]).numpy()
        tolerance = 1e-5 * float(np.abs(expected).max())
        np.testing.assert_allclose(_run(graph, images[:batch]), expected, rtol=0, atol=tolerance)
