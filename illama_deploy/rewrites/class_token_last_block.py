"""In the last block only the class token is read: its query, attention row, proj and FFN are enough.

Keys and values are still made for every token. About 10/12 of one block is saved. A UperNet reads all image tokens of
the last block, so there it does not apply.
"""

from __future__ import annotations

from ..model.network import Network
from .rewrite import Rewrite

__all__ = ["CLASS_TOKEN_LAST_BLOCK"]


def _restructure(model: Network) -> None:
    model.set_class_query_only(True)


def _fits(model: Network) -> bool:
    return all(outlet.tokens != "image" for outlet in model.outlets)


CLASS_TOKEN_LAST_BLOCK = Rewrite("class_token_last_block", fits=_fits, restructure=_restructure)
