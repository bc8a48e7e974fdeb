"""Tables of the four properties of the paper as text, shared by every renderer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .property import Artifacts, Property

__all__ = ["ATTENTION_RANK", "CALIBRATION", "CORRUPTIONS", "SHAPE_BIAS", "measured", "was_measured"]

CALIBRATION_COLUMNS = ("artifact", "temperature", "ECE", "NLL", "Brier")
SHAPE_COLUMNS = ("artifact", "shape of", "stimuli", "by shape", "by texture", "by neither", "shape ratio %")
RANK_COLUMNS = ("artifact", "mask", "layer", "rank, mean of heads", "share %", "head by head")
CORRUPTION_COLUMNS = ("artifact", "corruption", "top-1 %", "by severity")


def calibration_rows(artifacts: Artifacts) -> list[tuple[str, ...]]:
    """As it is, and with the temperature that was fitted."""
    rows: list[tuple[str, ...]] = []
    for name, found in measured(artifacts, "calibration"):
        scaled = found["scaled"]
        rows.append((name, "1", *_triples(found)))
        if scaled is not None:
            rows.append(
                ("", f"{scaled['temperature']:.4f} ({scaled['images']} images of {scaled['split']})", *_triples(scaled))
            )
    return rows


def shape_rows(artifacts: Artifacts) -> list[tuple[str, ...]]:
    """All stimuli, then by the category of their shape."""
    rows: list[tuple[str, ...]] = []
    for name, found in measured(artifacts, "shape_bias"):
        for number, (category, counts) in enumerate([("all", found), *found["categories"].items()]):
            ratio = "–" if counts["ratio"] is None else _interval([100 * value for value in counts["ratio"]], 1)
            numbers = (str(counts[key]) for key in ("stimuli", "shape", "texture", "neither"))
            rows.append(("" if number else name, category, *numbers, ratio))
    return rows


def rank_rows(artifacts: Artifacts) -> list[tuple[str, ...]]:
    """Every layer, then the mean of all."""
    rows: list[tuple[str, ...]] = []
    for name, found in measured(artifacts, "attention_rank"):
        for by_mask in found["masks"]:
            mask, tokens = by_mask["mask"], by_mask["tokens"]
            for layer, ranks in enumerate(by_mask["rank"], 1):
                mean = sum(ranks) / len(ranks)
                heads = " ".join(f"{rank:.1f}" for rank in ranks)
                first = layer == 1
                rows.append((name if first else "", mask if first else "", str(layer), *_rank(mean, tokens), heads))
            rows.append(("", "", "all", *_rank(by_mask["mean"], tokens), ""))
    return rows


def corruption_rows(artifacts: Artifacts) -> list[tuple[str, ...]]:
    """The mean of all, then each corruption; top-1 at each severity."""
    rows: list[tuple[str, ...]] = []
    for name, found in measured(artifacts, "corruptions"):
        rows.append((name, "none", f"{found['clean']:.2f}", "–"))
        rows.append(
            (
                "",
                "mean of all",
                f"{found['mean']:.2f}",
                _severities(map(_mean, zip(*found["top1"].values(), strict=True))),
            )
        )
        rows += [("", kind, f"{_mean(top1):.2f}", _severities(top1)) for kind, top1 in found["top1"].items()]
    return rows


def was_measured(properties: dict[str, Any], name: str) -> bool:
    """Whether a property was asked for, and the artifact could show it."""
    return name in properties and "not_measured" not in properties[name]


def measured(artifacts: Artifacts, name: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """The artifacts that a property was measured of, with its figures."""
    return [(label, found[name]) for label, found in artifacts if was_measured(found, name)]


def _triples(figures: dict[str, Any]) -> tuple[str, ...]:
    return tuple(_interval(figures[name], 4) for name in ("ece", "nll", "brier"))


def _interval(triple: Sequence[float | None], digits: int) -> str:
    value, low, high = triple
    if low is None or high is None:  # too few images to know
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _rank(rank: float, tokens: int) -> tuple[str, str]:
    return f"{rank:.2f} of {tokens}", f"{100 * rank / tokens:.1f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _severities(values: Iterable[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)


CALIBRATION = Property(name="calibration", title="Calibration", columns=CALIBRATION_COLUMNS, rows=calibration_rows)
SHAPE_BIAS = Property(name="shape-bias", title="Shape or texture", columns=SHAPE_COLUMNS, rows=shape_rows)
ATTENTION_RANK = Property(
    name="attention-rank",
    title="Attention rank",
    columns=RANK_COLUMNS,
    rows=rank_rows,
    hint="Measure it on the float checkpoint or the quantized directory.",
)
CORRUPTIONS = Property(name="corruptions", title="Corrupted images", columns=CORRUPTION_COLUMNS, rows=corruption_rows)
