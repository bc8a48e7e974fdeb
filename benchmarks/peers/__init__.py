"""The rows of the table, a file per tool. To add a tool: a file with `CASES`, and its name below."""

from . import modelopt, neural_compressor, olive, openvino_nncf, ort, ours, torchao
from .case import BATCHES, Case, Inputs

__all__ = ["BATCHES", "CASES", "Case", "Inputs"]

CASES: dict[str, Case] = {
    case.name: case
    for tool in (ours, ort, modelopt, olive, openvino_nncf, torchao, neural_compressor)
    for case in tool.CASES
}
