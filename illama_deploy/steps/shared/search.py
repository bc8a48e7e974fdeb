"""Formats site by site: the smallest network that keeps a limit on the drop in top-1, or the most exact of a size.

Each group of sites is measured alone at each candidate format, by the logits' divergence from float. That orders
assignments on one curve, from the most exact to the cheapest; few of its points are then quantized for real, by the
recipe's rounding method, and their drop is measured on held-out images. What was measured is kept beside the output
until that is written, so that the same command goes on where it was interrupted.
"""

from __future__ import annotations

import copy
import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...calib import rebatch, require_finite
from ...data import Loader, open_data, sample_indices
from ...errors import UsageError, parameter
from ...formats import Format, NumberType
from ...hashing import canonical_json
from ...journal import Journal
from ...measure import Interval, drop_interval
from ...model.families import geometry_of
from ...model.network import Network
from ...model.structure import Structure
from ...preprocessing import Preprocessing
from ...progress import track
from ...quant import Site, stored_size
from ...recipe import Recipe
from ...rounding import RoundedWeight, nearest
from ...sealed import read_sealed, write_sealed
from ...search import (
    Choice,
    Limits,
    Point,
    bit_operations,
    cheapest_passing,
    count_products,
    diverge,
    group_sites,
    most_probes,
    plot_search,
    quantized_alone,
    walk,
    weight_bytes,
)
from ...versions import cpu, versions
from .calibrated import Calibrated

__all__ = ["Found", "HeldOut", "hold_out", "search", "search_rows"]

SCHEMA = "illama-deploy/search/1"
RECORD, PLOT = "search.json", "search.svg"
#: Calibration images on which sites are measured alone. Only the order of sites hangs on them.
SENSITIVITY_IMAGES = 128
#: That no assignment passes whose drop is above the limit.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        recipe: that of the calibration, with the formats found.
        formats: of every site.
        model: quantized so.
        record: all of `search.json`.
        journal: of no more use once the artifact is written.
    """

    recipe: Recipe
    formats: dict[str, Format]
    model: Network
    record: dict[str, Any]
    journal: Journal

    @property
    def label(self) -> str:
        """The formats that the searched sites have, most weights first, such as `W4A8+W8A8`."""
        return "+".join(self.record["formats"])

    @property
    def summary(self) -> dict[str, Any]:
        """For the manifest."""
        measured = self.record["curve"][self.record["chosen"]]["measured"]
        return {"file": RECORD, "limits": self.record["limits"], "images": measured["images"], "drop": measured["drop"]}

    def write(self, directory: Path) -> None:
        """Write record and plot into the artifact."""
        write_sealed(directory / RECORD, self.record)
        plot_search(self.record, directory / PLOT)


class HeldOut:
    """Images that took no part in calibration.

    Attributes:
        probes: how many assignments are measured at most.
        confidence: of each bound of a drop that is measured on them.
    """

    def __init__(self, loader: Loader, probes: int, confidence: float) -> None:
        self.loader, self.probes, self.confidence = loader, probes, confidence
        self._reference: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def run(self, model: Network, description: str) -> tuple[Tensor, Tensor]:
        """Logits [images, classes] and labels [images]."""
        pairs = []
        for batch in track(self.loader, description, len(self.loader)):
            pairs.append((model(batch.images), batch.labels))
            require_finite(model, batch.images, pairs[-1][0])
        return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])

    def compare(self, model: Network, quantized: Network, description: str) -> dict[str, Any]:
        """What a quantized network loses and wins against the float one, always the same."""
        if self._reference is None:
            self._reference = self.run(model, "Held-out images in float")
        (expected, labels), (logits, _) = self._reference, self.run(quantized, description)
        before, after = expected.argmax(1), logits.argmax(1)
        return {
            "images": len(labels),
            "lost": int(((before == labels) & (after != labels)).sum()),
            "won": int(((before != labels) & (after == labels)).sum()),
            "float_top1": 100 * float((before == labels).double().mean()),
            "agreement": 100 * float((before == after).double().mean()),
            **diverge([(logits, expected)])._asdict(),
        }


def hold_out(
    model: Network,
    calibration: Loader,
    preprocessing: Preprocessing,
    sites: Sequence[Site],
    choices: Mapping[str, Sequence[Format]],
    limits: Limits,
    seed: int,
) -> HeldOut:
    """Draw images of the same split that do not calibrate, or of the split that is named.

    Raises:
        UsageError: there is nothing to choose, or not enough of them to show such a drop.
    """
    groups = _searched(model.structure, sites, choices)
    if not groups:
        raise UsageError(
            "No site is left whose format could be chosen: the recipe's overrides name them all.",
            hint=f"Take some out of the recipe, or loosen {parameter('include')} and {parameter('exclude')}.",
        )
    # Each probe may let an assignment pass by luck: so seldom that all together keep the confidence (Bonferroni).
    probes = most_probes(1 + sum(len(choices[each[0].name]) - 1 for each in groups.values()))
    confidence = CONFIDENCE if limits.max_drop is None else 1 - (1 - CONFIDENCE) / probes

    source = calibration.source
    if limits.held_out_split is not None:
        source = open_data(source.spec, limits.held_out_split, role="calibrate")
    source.require_task(model.config.task)
    used = set(calibration.indices) if source.split == calibration.source.split else set()
    unused = [i for i in range(len(source)) if i not in used]
    drawn = [unused[i] for i in sample_indices(len(unused), limits.held_out_images, seed)]

    def shows_limit(images: int) -> bool:
        """Whether an assignment that loses nothing at all could pass."""
        return limits.max_drop is None or drop_interval(0, 0, images, confidence).high <= limits.max_drop

    if not drawn or not shows_limit(len(drawn)):
        needed = 1 + bisect_left(range(1, 10**9), True, key=shows_limit)
        raise UsageError(
            f"{len(drawn)} held-out images are too few: "
            + (f"it takes {needed} to show so small a drop." if drawn else "none is left."),
            hint=f"Held-out images are those that do not calibrate: lower {parameter('calib_images')}, raise "
            f"{parameter('held_out_images')}, or "
            f"name another split with {parameter('held_out_split')}.",
        )
    loader = Loader(
        source,
        preprocessing,
        classes=calibration.classes,
        names=calibration.names,
        indices=drawn,
        skip_broken=calibration.skip_broken,
    )
    return HeldOut(loader, probes, confidence)


def search(calibrated: Calibrated, held_out: HeldOut, limits: Limits, *, beside: Path) -> Found:
    """Choose the format of every site.

    Args:
        beside: the artifact to be; what is measured is kept beside it.

    Raises:
        UsageError: limits that no assignment keeps.
    """
    config, rewrites = calibrated.model.config, calibrated.recipe.rewrites
    groups = _searched(calibrated.model.structure, calibrated.sites, calibrated.choices)
    journal = Journal(beside, _decides(calibrated, limits, held_out.loader))
    choices = _measure_sites(calibrated, groups, journal)
    points = walk(choices)
    formats = [_formats(calibrated, groups, point) for point in points]
    sizes = [stored_size(config, rewrites, each) for each in formats]
    budget = limits.bytes_of(stored_size(config, (), {}))
    first = _first_that_fits(sizes, budget)

    measured: dict[int, dict[str, Any]] = {}
    kept: dict[int, Network] = {}

    def drop_of(number: int) -> Interval:
        description = f"Assignment {len(measured) + 1} of at most {held_out.probes}, {sizes[number] / 1e6:.2f} MB: "

        def measure() -> dict[str, Any]:
            kept[number], _ = calibrated.quantize(formats[number], description + "rounding")
            return held_out.compare(calibrated.model, kept[number], description + "held-out images")

        names = canonical_json({site: each.name for site, each in formats[number].items()})
        figures = journal.measured(f"drop-{hashlib.sha256(names.encode()).hexdigest()[:16]}", measure)
        drop = drop_interval(figures["lost"], figures["won"], figures["images"], held_out.confidence)
        measured[number] = {**figures, "drop": drop._asdict()}
        return drop

    def passes(number: int, max_drop: float) -> bool:
        passed = drop_of(number).high <= max_drop
        for other in list(kept):  # networks that can no longer be what is chosen
            if (other == number) != passed:
                del kept[other]
        return passed

    chosen: int | None = first
    if limits.max_drop is None:
        drop_of(first)
    else:
        chosen = cheapest_passing(first, len(points) - 1, partial(passes, max_drop=limits.max_drop))
    if chosen is None:
        raise _none_keeps(limits, points[first], sizes[first], measured[first])
    model = kept.get(chosen)
    if model is None:  # measured before an interruption
        model, _ = calibrated.quantize(formats[chosen])
    recipe, shares = _with_formats(calibrated, groups, points[chosen], formats[chosen])
    source = held_out.loader.source
    record = {
        "schema": SCHEMA,
        "limits": {"max_drop": limits.max_drop, "max_bytes": None if limits.max_size is None else int(budget)},
        "formats": shares,
        "candidates": [each.name for each in limits.candidates],
        "confidence": {"of_all": CONFIDENCE, "of_each": held_out.confidence},
        "chosen": chosen,
        "curve": [
            {
                "bytes": size,
                "bit_operations": point.work,
                "expected_kl": point.kl,
                "changed": point.changed and {point.changed: point.choices[point.changed].format.name},
                "measured": measured.get(number),
            }
            for number, (point, size) in enumerate(zip(points, sizes, strict=True))
        ],
        "sensitivity": [*_sensitivities(choices)],
        "sensitivity_images": min(SENSITIVITY_IMAGES, len(calibrated.loader)),
        "held_out": {"spec": source.spec, "split": source.split, "indices": list(held_out.loader.indices)},
    }
    return Found(recipe, formats[chosen], model, record, journal)


def _first_that_fits(sizes: Sequence[int], budget: float) -> int:
    """Number of the first assignment of at most so many bytes.

    Raises:
        UsageError: none is.
    """
    for number, size in enumerate(sizes):
        if size <= budget:
            return number
    raise UsageError(
        f"Nothing fits {budget / 1e6:.2f} MB: the smallest assignment has {sizes[-1] / 1e6:.2f} MB.",
        hint=f"Raise {parameter('max_size')}, or add a {parameter('candidates')} of fewer bits.",
    )


def _sensitivities(choices: Mapping[str, Sequence[Choice]]) -> Iterator[dict[str, Any]]:
    for name, each in choices.items():
        for choice in each:
            yield {"sites": name, **asdict(choice), "format": choice.format.name}


def search_rows(artifact: Path) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows: what was measured along the curve of an artifact that was searched, the most exact first."""
    record = read_sealed(
        artifact / RECORD, SCHEMA, what="The record of the search", again="Make it again: illama-deploy quantize."
    )
    rows: list[tuple[str, ...]] = []
    for number, point in enumerate(record["curve"]):
        if (figures := point["measured"]) is not None:
            drop = figures["drop"]
            rows.append(
                (
                    f"{point['bytes'] / 1e6:.2f} MB",
                    f"{100 * point['bit_operations'] / record['curve'][0]['bit_operations']:.0f}",
                    f"{point['expected_kl']:.5f}",
                    f"{figures['kl']:.5f}",
                    f"{figures['agreement']:.2f}",
                    f"{drop['value']:.2f}",
                    f"{drop['high']:.2f}",
                    "chosen" if number == record["chosen"] else "",
                )
            )
    return ("size", "bit operations %", "KL expected", "KL", "agreement %", "drop, points", "at most", ""), rows


def _searched(
    structure: Structure, sites: Sequence[Site], choices: Mapping[str, Sequence[Format]]
) -> dict[str, tuple[Site, ...]]:
    """The groups of sites that have a choice."""
    return group_sites((site for site in sites if len(choices[site.name]) > 1), structure.shared_inputs())


def _decides(calibrated: Calibrated, limits: Limits, held_out: Loader) -> dict[str, Any]:
    """All that a measurement hangs on. The limits themselves decide only which are made."""
    return {
        "schema": SCHEMA,
        "versions": versions("torch", "timm", "torchvision", "numpy", "pillow"),
        "cpu": cpu(),
        "source": {key: value for key, value in calibrated.origin.items() if key != "path"},
        "geometry": geometry_of(calibrated.model.config),
        "preprocessing": calibrated.preprocessing.to_dict(),
        "recipe": calibrated.recipe.to_dict(),
        "candidates": [each.name for each in limits.candidates],
        "images": SENSITIVITY_IMAGES,
        "data": [
            [each.source.spec, each.source.split, len(each.source), list(each.indices), each.skip_broken]
            for each in (calibrated.loader, held_out)
        ],
    }


def _measure_sites(
    calibrated: Calibrated, groups: Mapping[str, Sequence[Site]], journal: Journal
) -> dict[str, list[Choice]]:
    """What each group costs at each of its formats, weights rounded to nearest."""
    model, rounding = calibrated.model, partial(_nearest, calibrated.recipe.weight_clip)
    few = copy.copy(calibrated.loader)
    # Spread over all of them: where images are sorted by class, the first would be of one.
    few.indices = few.indices[:: max(1, len(few.indices) // SENSITIVITY_IMAGES)][:SENSITIVITY_IMAGES]
    images = list(rebatch(batch.images for batch in few))
    with torch.inference_mode():
        reference = [model(batch) for batch in images]
    products = count_products(model, images[0][:1], [site for sites in groups.values() for site in sites])

    @torch.inference_mode()
    def measure(sites: Sequence[Site], format_: Format) -> dict[str, float]:
        formats = {site.name: format_ for site in sites}
        with quantized_alone(model, sites, formats, calibrated.thresholds(formats), rounding):
            return diverge((model(batch), exact) for batch, exact in zip(images, reference, strict=True))._asdict()

    choices: dict[str, list[Choice]] = {name: [] for name in groups}
    pairs = [(name, each) for name, sites in groups.items() for each in calibrated.choices[sites[0].name]]
    for name, format_ in track(pairs, "Measuring sites alone", len(pairs)):
        sites = groups[name]
        figures = journal.measured(f"site-{name}-{format_.name}", partial(measure, sites, format_))
        size = sum(weight_bytes(model.get_submodule(site.name), format_) for site in sites)
        work = sum(bit_operations(products[site.name], format_, is_product=site.is_product) for site in sites)
        choices[name].append(Choice(format_, size, work, **figures))
    return choices


def _nearest(clip: str, weight: Tensor, dtype: NumberType, group: int | None) -> RoundedWeight:
    return nearest(weight, dtype, clip=clip, group=group)


def _formats(calibrated: Calibrated, groups: Mapping[str, Sequence[Site]], point: Point) -> dict[str, Format]:
    """The format of every site, searched or not."""
    chosen = {site.name: point.choices[name].format for name, sites in groups.items() for site in sites}
    return {site.name: chosen.get(site.name, calibrated.choices[site.name][0]) for site in calibrated.sites}


def _with_formats(
    calibrated: Calibrated, groups: Mapping[str, Sequence[Site]], point: Point, formats: Mapping[str, Format]
) -> tuple[Recipe, dict[str, int]]:
    """The recipe that says so, and the bytes of searched weights in each format, most first.

    Its format is that of the most bytes, and overrides name what has another.
    """
    shares: dict[str, int] = {}
    for choice in point.choices.values():
        shares[choice.format.name] = shares.get(choice.format.name, 0) + choice.bytes
    shares = dict(sorted(shares.items(), key=lambda item: -item[1]))
    recipe = replace(calibrated.recipe, format=next(iter(shares)))
    searched = {site.name: name for name, sites in groups.items() for site in sites}
    others = {
        searched.get(site.name, site.name): formats[site.name].name
        for site in calibrated.sites
        if recipe.format_of(site.name) != formats[site.name]
    }
    return replace(recipe, overrides=(*recipe.overrides, *others.items())), shares


def _none_keeps(limits: Limits, best: Point, size: int, figures: Mapping[str, Any]) -> UsageError:
    """Say how near the most exact assignment came, and what stands in the way."""
    drop = figures["drop"]
    worst = sorted(best.choices, key=lambda name: -best.choices[name].kl)[:3]
    named = ", ".join(f"{name} ({best.choices[name].format.name}, KL {best.choices[name].kl:.2g})" for name in worst)
    return UsageError(
        f"No assignment keeps a drop of at most {limits.max_drop:g} points"
        + ("" if limits.max_size is None else " in that size")
        + f". The most exact, of {size / 1e6:.2f} MB, drops {drop['value']:.2f} points on {figures['images']} held-out "
        f"images, at most {drop['high']:.2f} with {100 * CONFIDENCE:.0f} % confidence. It costs most in {named}.",
        hint=f"Raise {parameter('max_drop')} (what was measured is kept, and not measured again), "
        + (
            f"give more {parameter('held_out_images')} to narrow the interval"
            if limits.max_drop is not None and drop["value"] <= limits.max_drop
            else f"leave those sites in float with {parameter('exclude')}, or add a more exact "
            f"{parameter('candidates')}"
        )
        + ".",
    )
