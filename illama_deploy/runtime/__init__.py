"""Run any artefact: one interface over every backend."""

from .open import open_artifact
from .runtime import ArtifactInfo, Runtime

__all__ = ["ArtifactInfo", "Runtime", "open_artifact"]
