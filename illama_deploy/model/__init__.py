"""The network, trainable, in float32."""

from .illama import Illama, IllamaConfig, MatMul, RMSNorm
from .registry import illama_base, illama_large, illama_small, illama_tiny
from .upernet import UperNet

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
