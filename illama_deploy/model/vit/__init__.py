"""Pre-norm vision transformers: the encoders of timm's `VisionTransformer` and `Eva`."""

from .config import VitConfig
from .network import Vit

__all__ = ["Vit", "VitConfig"]
