"""What runs an artifact: one interface over every backend, and the door for ONNX files."""

from .runtime import SIMULATION, ArtifactInfo, BatchLimits, Runtime, Unavailable

__all__ = ["SIMULATION", "ArtifactInfo", "BatchLimits", "Runtime", "Unavailable"]
