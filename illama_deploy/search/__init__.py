"""From what each site costs the logits at each format to the cheapest formats that keep a limit.

`groups` says which sites get a format together and what it costs, `sensitivity` what it does to the logits, `curve`
orders all this into assignments from the most exact to the cheapest and finds the last of them that passes with few
looks.
"""

from .curve import Choice, Point, cheapest_passing, most_probes, walk
from .divergence import Divergence, diverge, quantized_alone
from .groups import bit_operations, count_products, group_sites, weight_bytes
from .limits import Limits
from .plot import plot_search

__all__ = [
    "Choice",
    "Divergence",
    "Limits",
    "Point",
    "bit_operations",
    "cheapest_passing",
    "count_products",
    "diverge",
    "group_sites",
    "most_probes",
    "plot_search",
    "quantized_alone",
    "walk",
    "weight_bytes",
]
