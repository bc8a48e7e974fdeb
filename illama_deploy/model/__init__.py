"""The network, trainable, in float32."""

from .illama import Illama, IllamaConfig, MatMul, RMSNorm
from .upernet import UperNet
from .registry import illama_base, illama_large, illama_small, illama_tiny

__all__ = [
    "Illama",
    "IllamaConfig",
    "MatMul",
    "RMSNorm",
    "UperNet",
    "illama_base",
    "illama_large",
    "illama_small",
    "illama_tiny",
]
