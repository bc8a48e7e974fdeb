"""The search as a picture: what is saved, what it should cost, what it did cost, and which sites cost most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["plot_search"]

#: Sites in the lowest panel, the most expensive first.
MOST_SITES = 24


def plot_search(record: dict[str, Any], path: Path) -> None:
    """Draw what `search.json` says, as SVG; the same record gives the same bytes.

    Args:
        record: as in `search.json`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "illama-deploy", "font.size": 9}):
        figure = Figure(figsize=(7.5, 10), layout="constrained")
        saved, divergence, drop, sites = figure.subplots(4, 1, height_ratios=[2, 2, 2, 4])
        for axes in (saved, divergence):
            axes.sharex(drop)
            axes.tick_params(labelbottom=False)
        _draw_saved(saved, record["curve"])
        _draw_divergence(divergence, record["curve"])
        _draw_drop(drop, record)
        for axes in (saved, divergence, drop):
            axes.axvline(record["chosen"], color="tab:blue", linewidth=1, linestyle=":")
        _draw_sites(sites, record["sensitivity"])
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _draw_saved(axes: Any, curve: list[dict[str, Any]]) -> None:
    for key, label in (("bytes", "stored bytes"), ("bit_operations", "bit operations of searched sites")):
        axes.step(range(len(curve)), [100 * point[key] / curve[0][key] for point in curve], where="post", label=label)
    axes.set(ylabel="% of the first", title="From the most exact assignment to the cheapest (dotted: chosen)")
    axes.legend()


def _draw_divergence(axes: Any, curve: list[dict[str, Any]]) -> None:
    axes.plot([point["expected_kl"] for point in curve], color="tab:grey", label="expected: sites alone, summed")
    measured = [(number, point["measured"]["kl"]) for number, point in enumerate(curve) if point["measured"]]
    axes.plot(*zip(*measured, strict=True), "o", color="tab:orange", label="measured")
    axes.set(yscale="log", ylabel="KL of the logits, nats")
    axes.legend()


def _draw_drop(axes: Any, record: dict[str, Any]) -> None:
    for number, point in enumerate(record["curve"]):
        if point["measured"] is not None:
            value, low, high = (point["measured"]["drop"][key] for key in ("value", "low", "high"))
            color = "tab:blue" if number == record["chosen"] else "tab:orange"
            axes.errorbar(number, value, [[value - low], [high - value]], fmt="o", capsize=3, color=color)
    if (limit := record["limits"]["max_drop"]) is not None:
        axes.axhline(limit, linestyle="--", color="tab:red", linewidth=1, label="limit")
        axes.legend()
    axes.set(
        xlabel="groups of sites made cheaper, one after the other",
        ylabel=f"drop in top-1, points\n({len(record['held_out']['indices'])} held-out images)",
    )


def _draw_sites(axes: Any, rows: list[dict[str, Any]]) -> None:
    worst: dict[str, float] = {}
    for row in rows:
        worst[row["sites"]] = max(worst.get(row["sites"], 0.0), row["kl"])
    names = sorted(worst, key=lambda name: -worst[name])[:MOST_SITES]
    formats = list(dict.fromkeys(row["format"] for row in rows))
    height = 0.8 / len(formats)
    for i, format_ in enumerate(formats):
        kl = {row["sites"]: row["kl"] for row in rows if row["format"] == format_}
        bars = [(place + i * height, kl[name]) for place, name in enumerate(names) if name in kl]
        axes.barh([place for place, _ in bars], [value for _, value in bars], height, label=format_)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], names, fontsize=7)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="KL of the logits with these sites alone quantized, nats")
    axes.legend(loc="lower right")
    axes.set_title("What sites cost" + (f" ({len(names)} of {len(worst)})" if len(names) < len(worst) else ""))
