"""Run any artifact: one interface over every backend."""

from .open import open_artifact, open_if_available
from .runtime import ArtifactInfo, BatchLimits, Runtime, Unavailable

__all__ = ["ArtifactInfo", "BatchLimits", "Runtime", "Unavailable", "open_artifact", "open_if_available"]
