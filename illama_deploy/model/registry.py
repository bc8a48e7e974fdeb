"""The four published geometries, registered with timm: `timm.create_model("illama_tiny")`."""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model, resolve_pretrained_cfg

from .illama import Illama, IllamaConfig

__all__ = ["illama_base", "illama_large", "illama_small", "illama_tiny"]


def _cfg(size: int = 224) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, size, size),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


default_cfgs = generate_default_cfgs({f"illama_{size}": _cfg() for size in ("tiny", "small", "base", "large")})


def _build(name: str, dim: int, depth: int, heads: int, pretrained: bool, options: dict[str, Any]) -> Illama:
    if pretrained:
        raise RuntimeError(
            f"{name} has no weights to download; load a checkpoint with illama_deploy.load_checkpoint(path)."
        )
    options.pop("cache_dir", None)
    cfg = resolve_pretrained_cfg(
        name,
        pretrained_cfg=options.pop("pretrained_cfg", None),
        pretrained_cfg_overlay=options.pop("pretrained_cfg_overlay", None),
    ).to_dict()
    size = options.pop("img_size", 224)
    config = IllamaConfig(
        dim=dim,
        depth=depth,
        heads=heads,
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        patch_size=options.pop("patch_size", 16),
        channels=options.pop("in_chans", 3),
        classes=options.pop("num_classes", 1000),
    )
    drop_path = options.pop("drop_path_rate", 0.0)
    if options.get("global_pool") == "token":
        del options["global_pool"]
    if unknown := {key for key, value in options.items() if value}:
        raise TypeError(f"{name} does not take {', '.join(sorted(unknown))}")
    model = Illama(config, drop_path=drop_path)
    # timm makes transforms from it: it must say what this network takes.
    cfg["input_size"] = (config.channels, *config.image_size)
    if config.channels != len(cfg["mean"]):
        cfg["mean"], cfg["std"] = (0.5,) * config.channels, (0.5,) * config.channels
    cfg["num_classes"] = config.classes
    model.pretrained_cfg = model.default_cfg = cfg
    return model


@register_model
def illama_tiny(pretrained: bool = False, **options: Any) -> Illama:
    """iLLaMA-T: dim 192, depth 12, 3 heads.

    Options as in timm: `img_size` (int or pair), `patch_size`, `in_chans`, `num_classes`, `drop_path_rate`.
    """
    return _build("illama_tiny", 192, 12, 3, pretrained, options)


@register_model
def illama_small(pretrained: bool = False, **options: Any) -> Illama:
    """iLLaMA-S: dim 384, depth 12, 6 heads. Options as for `illama_tiny`."""
    return _build("illama_small", 384, 12, 6, pretrained, options)


@register_model
def illama_base(pretrained: bool = False, **options: Any) -> Illama:
    """iLLaMA-B: dim 768, depth 12, 12 heads. Options as for `illama_tiny`."""
    return _build("illama_base", 768, 12, 12, pretrained, options)


@register_model
def illama_large(pretrained: bool = False, **options: Any) -> Illama:
    """iLLaMA-L: dim 1024, depth 24, 16 heads. Options as for `illama_tiny`."""
    return _build("illama_large", 1024, 24, 16, pretrained, options)
