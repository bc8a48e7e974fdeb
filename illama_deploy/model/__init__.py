"""The network, trainable, in float32."""

from .attention import MatMul
from .illama import Illama, IllamaConfig
from .network import Network, NetworkConfig
from .norm import RMSNorm
from .registry import illama_base, illama_large, illama_small, illama_tiny
from .upernet import UperNet

__all__ = [
    "Illama",
    "IllamaConfig",
    "MatMul",
    "Network",
    "NetworkConfig",
    "RMSNorm",
    "UperNet",
    "illama_base",
    "illama_large",
    "illama_small",
    "illama_tiny",
]
