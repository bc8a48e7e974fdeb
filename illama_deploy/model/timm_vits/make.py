"""timm makes networks by name, here without values: on torch's device `meta`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from .reading import UnsupportedError

__all__ = ["ARGUMENTS", "initial_state", "make_on_meta"]

#: What a configuration may say of a network's constructor, each a number, true or false, a text, or two numbers.
ARGUMENTS = frozenset(
    """
    img_size patch_size in_chans num_classes global_pool embed_dim depth num_heads mlp_ratio qkv_bias qkv_fused
    qk_norm proj_bias init_values class_token pos_embed no_embed_class reg_tokens num_reg_tokens pre_norm final_norm
    fc_norm use_fc_norm dynamic_img_size dynamic_img_pad drop_rate pos_drop_rate patch_drop_rate proj_drop_rate
    attn_drop_rate drop_path_rate swiglu_mlp scale_mlp scale_attn_inner use_abs_pos_emb use_rot_pos_emb rope_type
    rope_grid_offset rope_grid_indexing rope_temperature rope_rotate_half use_pre_transformer_norm
    use_post_transformer_norm ref_feat_shape weight_init
    """.split()  # noqa: SIM905
)
#: Bounds of numbers among them; a network of more blocks than this is none.
LARGEST, DEEPEST = 2**20, 1_000


def make_on_meta(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network of that name, its values unset but for rotary tables, which follow from its arguments.

    Raises:
        UnsupportedError: an argument that is not covered, or that timm refuses.
    """
    for key, value in arguments.items():
        if key not in ARGUMENTS:
            raise UnsupportedError(f"its argument {key[:40]!r} is not covered")
        if not _is_plain(value) or (key == "depth" and not (type(value) is int and 0 < value <= DEEPEST)):
            raise UnsupportedError(f"its argument {key} is {str(value)[:40]}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    try:
        with torch.device("meta"):
            model = _make(name, given)
    except Exception as error:  # whatever a constructor meets in arguments that do not fit
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsupportedError(f"timm refuses to make it ({what[:160]})") from error
    rotary: Any = getattr(model, "rope", None)
    if rotary is not None:
        rotary.to_empty(device="cpu")
        rotary.reset_parameters()
    return model.eval()


def initial_state(name: str, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """A network's values as timm initialises them for training: timm's keys. `make_on_meta` has taken the arguments."""
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    return dict(_make(name, given).state_dict())


def _make(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return model


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) == 2 and all(type(each) is int and 0 < each <= LARGEST for each in value)
    if isinstance(value, int | float):
        return -1 <= value <= LARGEST
    return value is None or (isinstance(value, str) and len(value) <= 40)
