"""torch.compile goes past torch's limit of graphs, and what it cannot do is said in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch._inductor.config
from torch import Tensor

from illama_deploy import RuntimeUnavailableError
from illama_deploy.compilation import compiling

pytestmark = pytest.mark.slow


def test_more_graphs_than_torch_would_make() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    @torch.compile(backend=backend, dynamic=False)
    def doubled(x: Tensor) -> Tensor:
        return 2 * x

    with compiling():
        for size in range(2, 14):
            assert doubled(torch.ones(size)).sum() == 2 * size
    assert len(graphs) == 12


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    doubled = torch.compile(lambda x: (2 * x).sin())
    with (
        torch._inductor.config.patch("cpp.cxx", (None, str(tmp_path / "none"))),
        pytest.raises(RuntimeUnavailableError, match="cannot compile") as error,
        compiling(),
    ):
        doubled(torch.ones(16))
    assert "C++ compiler" in str(error.value)


def test_other_errors_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), compiling():
        _ = 1 // 0
