"""The quantized network in torch: the exact arithmetic that every export carries."""

from .artifact import QuantizedArtifact, load_quantized, save_quantized, stored_size
from .modules import QuantConv2d, QuantConvTranspose2d, QuantLinear, QuantMatMul, QuantModule, QuantReLU
from .network import input_scales, quantize_network, quantized_modules
from .reconstruct import Reconstructed
from .sequential import quantize_sequentially
from .site_noise import SiteSensitivity, measure_sensitivity
from .sites import Site, find_sites, select_sites
from .temperature import divide_logits
from .trial import trial_product
from .weight_only import weight_only

__all__ = [
    "QuantConv2d",
    "QuantConvTranspose2d",
    "QuantLinear",
    "QuantMatMul",
    "QuantModule",
    "QuantReLU",
    "QuantizedArtifact",
    "Reconstructed",
    "Site",
    "SiteSensitivity",
    "divide_logits",
    "find_sites",
    "input_scales",
    "load_quantized",
    "measure_sensitivity",
    "quantize_network",
    "quantize_sequentially",
    "quantized_modules",
    "save_quantized",
    "select_sites",
    "stored_size",
    "trial_product",
    "weight_only",
]
