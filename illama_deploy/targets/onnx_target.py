"""Targets whose files are ONNX: float graph → passes → file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import Tensor

from ..errors import ExportError, parameter
from ..export.batches import RunFile
from ..export.file import write_file
from ..export.float_graph import INPUT, SITE, build_float_graph
from ..export.layout import SEQUENCE_MAJOR, Layout
from ..export.passes import SoundConstants
from ..export.record import recorded_proof
from ..model.network import Network
from ..onnx_session import session_options
from ..runtime import ArtifactInfo, BatchLimits
from ..runtime.onnx_file import read_onnx
from .graph_parity import measure_graph_parity
from .parity import Parity
from .target import LayerTable, Target, explained, layer_table

__all__ = ["OnnxTarget", "Passes"]

Passes = Callable[[Network], Sequence[ir.passes.PassBase]]


def _none(network: Network) -> Sequence[ir.passes.PassBase]:
    return ()


@dataclass(frozen=True)
class OnnxTarget(Target):
    """A target whose files are ONNX.

    Attributes:
        layout: of the float graph: the one that this runtime likes.
        passes: what makes the target's form of that graph.
        batching: passes after those, which change only how a batch is cut up.
    """

    suffix: str = ".onnx"
    kind: str = "ONNX file, unproven,"
    layout: Layout = SEQUENCE_MAJOR
    passes: Passes = _none
    batching: Passes = _none

    def built(self, network: Network, *, whole: bool = True) -> ir.Model:
        """The target's graph of a network (see `network`); without the batching passes unless `whole`.

        Raises:
            ExportError: a pass cannot do its work on this network.
        """
        network = self.network(network)
        passes = (*self.passes(network), SoundConstants(), *(self.batching(network) if whole else ()))
        try:
            return ir.passes.Sequential(*passes)(build_float_graph(network, self.layout)).model
        except (ir.passes.PassError, ir.passes.InvariantError) as error:
            cause = error.__cause__ or error
            raise ExportError(
                f"The graph cannot be brought into the form of {self.name}: {cause}.",
                hint=f"Leave the site that it names in float (quantize {parameter('exclude')}), or choose another "
                "target.",
            ) from error

    @property
    def tried_in(self) -> str:
        """Files for GPUs are tried in ONNX Runtime, too."""
        return "ONNX Runtime"

    def write(self, network: Network, path: Path, about: Mapping[str, str]) -> list[Path]:
        return write_file(self.built(network), path, about)

    def load(self, path: Path, *, fp8: bool = False) -> RunFile:
        options = session_options(fp8=fp8)
        import onnxruntime as ort

        def load() -> RunFile:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            return lambda images: session.run(None, {INPUT: images})

        return explained(load, self.tried_in)

    def parity(self, network: Network, images: Tensor | None = None) -> Parity:
        network = self.network(network)
        graph, model = build_float_graph(network, self.layout), self.built(network, whole=False)
        return measure_graph_parity(
            network, graph, model, lambda path, fp8: self.load(path, fp8=fp8), self.tried_in, images
        )

    def describe(self, name: str, path: Path) -> tuple[ArtifactInfo, BatchLimits | None]:
        file = read_onnx(path)
        return ArtifactInfo.of_file(name, file, file.target or "unknown", "none"), None

    def seconds(self, path: Path, layers: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """Seconds per inference of each layer of a proof; None where the runtime does not say."""
        return [None] * len(layers)

    def layers(self, path: Path) -> LayerTable:
        """As proven when it was exported, where that record lies beside it; else as the runtime says now."""
        file = read_onnx(path)
        proof = recorded_proof(path, file.sha256)
        if proof is None:
            found = self.prove(path, {})
            proof = super().layers(path).figures if found is None else found.to_dict()
        nodes = ir.traversal.RecursiveGraphIterator(ir.load(path).graph)  # those inside loops too
        sites = {node.name: node.metadata_props.get(SITE) for node in nodes}
        layers = [{**layer, "site": sites.get(layer["site"] or layer["name"])} for layer in proof["layers"]]
        times = self.seconds(path, layers)
        total = sum(second for second in times if second is not None)
        for layer, second in zip(layers, times, strict=True):
            layer["time_share"] = second / total if second is not None and total else None
        return layer_table(layers, str(proof["summary"]))
