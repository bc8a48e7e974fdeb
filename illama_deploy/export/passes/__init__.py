"""Graph passes: each says what it requires, does one thing, and checks what it ensures. One file each."""

from .dynamic_integers import DynamicIntegers
from .half_precision import HalfPrecision
from .hoist_quantize import HoistQuantize
from .insert_qdq import ActivationSpelling, InsertQDQ
from .micro_batch import MicroBatch
from .remove_dead import RemoveDead
from .sound_constants import SoundConstants

__all__ = [
    "ActivationSpelling",
    "DynamicIntegers",
    "HalfPrecision",
    "HoistQuantize",
    "InsertQDQ",
    "MicroBatch",
    "RemoveDead",
    "SoundConstants",
]
