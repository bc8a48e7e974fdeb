"""What everything compiled by OpenVINO here starts from."""

from __future__ import annotations

from ...environment import sums_saturate

__all__ = ["compile_options"]


def compile_options() -> dict[str, str]:
    """Options that keep the arithmetic that the file says.

    Before VNNI, OpenVINO's 8-bit kernels add pairs of products in 16 bits, which saturate without a word (12 dB instead
    of 134 on the embedded network). There it is told to leave quantization as it is written: the same integers,
    computed in float.
    """
    return {"LP_TRANSFORMS_MODE": "NO"} if sums_saturate() else {}
