"""From a network to a file per target: float graph → passes → file → proof.

`illama_deploy.export` is also the public function of that name (see `illama_deploy.steps.export`): calling
this module exports. Python would otherwise let one of the two hide the other.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .float_graph import build_float_graph
from .proof import KernelProof, LayerPrecision

__all__ = ["KernelProof", "LayerPrecision", "build_float_graph"]


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        from ..steps.export import export

        return export(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
