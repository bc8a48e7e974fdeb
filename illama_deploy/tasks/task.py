"""What a task is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..task_names import TaskLine

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..data import Batch, Loader
    from ..measure import Binning, Interval, Sliding
    from ..model.network import Network
    from ..runtime import Runtime
    from ..training import Images, Processes, TrainRecipe

__all__ = ["AccuracyFigures", "ComparisonFigures", "Measured", "OnSample", "Task"]


class AccuracyFigures(Protocol):
    """Accuracy of one artifact."""

    @property
    def images(self) -> int:
        """How many were seen."""

    @property
    def chance(self) -> float | None:
        """What the same guesses would be worth by chance, in percent; None where there are no guesses."""

    def to_dict(self) -> dict[str, Any]:
        """Figures by name."""

    def intervals(self, confidence: float) -> dict[str, Interval]:
        """Those that have an interval."""


class ComparisonFigures(Protocol):
    """An artifact against the reference."""

    def to_dict(self) -> dict[str, Any]:
        """`agreement` in percent and `logit_sqnr_db`, and what else the task compares."""

    def intervals(self, confidence: float) -> dict[str, Interval]:
        """All with their intervals, as far as they are known."""


class Measured(NamedTuple):
    """Figures of each artifact, and of each against the first."""

    accuracies: list[Any]
    comparisons: list[Any]


#: Called with a sample (`Batch`, or `Scene`) and what every artifact gives for it.
OnSample = Callable[[Any, list[Any]], None]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One task: a frozen value.

    Attributes:
        line: its names.
        counted: what is classified, or judged: `images`, ...
        does: what such a network does, as in "this network classifies pixels".
        drop: key of the drop of its figure in an artifact's comparison.
        drop_gate, change_gate, least_gate: names of the gates on it.
        figures: key, title and digits of all figures of accuracy.
        compared: the same of the figures against the first artifact. Every task has an `agreement`, of which a report
            always has an interval, and a `logit_sqnr_db`.
        batch_size: images at a time where nothing is said.
        qat_recipe: the recipe of quantization-aware training where none is named; None where its networks learn from no
            labels.
        options: options of `evaluate` that only this task takes, by name, each with its parameters.
        cannot_show: properties that have no meaning for it.
        searchable: a search of formats can go by it.
        needs_labels: whether nothing can be said of images without labels. Where it is false, the figure and its drop
            are None then.
    """

    line: TaskLine
    counted: str
    does: str
    drop: str
    drop_gate: str
    change_gate: str
    least_gate: str
    figures: tuple[tuple[str, str, int], ...]
    batch_size: int
    qat_recipe: str | None
    compared: tuple[tuple[str, str, int], ...] = (
        ("agreement", "agreement %", 2),
        ("logit_sqnr_db", "logit SQNR dB", 1),
    )
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()
    cannot_show: frozenset[str] = frozenset()
    searchable: bool = False
    needs_labels: bool = True

    @property
    def name(self) -> str:
        """In metadata, reports and data sources."""
        return self.line.name

    @property
    def figure(self) -> str:
        """Key of the gated figure in an artifact's accuracy."""
        return self.line.figure

    @property
    def title(self) -> str:
        """Of the gated figure, for people; in percent."""
        return self.line.title

    def require_images(self, count: int) -> None:  # noqa: B027 (most tasks take any number)
        """Refuse a number of images that nothing can be measured on.

        Raises:
            UsageError: they are too few, or too many.
        """

    @abstractmethod
    def loader(self) -> type[Loader]:
        """What reads images and labels."""

    @abstractmethod
    def training_images(self, recipe: TrainRecipe, numbers: int) -> type[Images]:
        """What reads images for training; so many numbers are in all of them."""

    @abstractmethod
    def measure(
        self,
        runtimes: Sequence[Runtime],
        loader: Loader,
        on_sample: OnSample | None = None,
        *,
        sliding: Sliding | None = None,
        binning: Binning | None = None,
        digest: Any = None,
    ) -> Measured:
        """Show all images to all artifacts.

        Args:
            on_sample: called with each sample and all artifacts' outputs.
            sliding: how whole images are predicted, where that is asked.
            binning: for calibration errors, where there are any.
            digest: takes pixels and labels on their way (`hashlib`).
        """

    @abstractmethod
    def measure_held_out(
        self, model: Network, held_out: Iterable[Batch] | Loader, processes: Processes
    ) -> dict[str, Any]:
        """Figures of a network in training, each process having its share of the images."""

    @abstractmethod
    def drop_from(self, reference: Any, accuracy: Any, confidence: float) -> Interval | None:
        """The drop of the figure from one artifact's accuracy to another's, in points; None where there is no figure,
        for want of labels."""

    @abstractmethod
    def drop_since(self, then: Mapping[str, Any], now: Mapping[str, Any], confidence: float) -> Interval:
        """The same, between what two reports keep (`kept`).

        Raises:
            ValueError: they cannot be compared.
        """

    @abstractmethod
    def named(self, figures: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """Figures with those of single classes by the classes' names."""

    @abstractmethod
    def kept(self, accuracy: Any) -> dict[str, Any]:
        """What a report keeps of an artifact beside its figures, for a later one to be compared with."""

    @abstractmethod
    def not_finite(self, accuracy: Mapping[str, Any]) -> str:
        """How many have logits that are no numbers, in words."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """An artifact's accuracy as JSON Schema: `properties` of the figures and of what is `kept`, and which of them
        are `required`; what all tasks have (`images`, `chance`, `intervals`, `not_finite`) is added to it."""

    def faults(self, accuracy: Mapping[str, Any], images: int) -> Iterator[str]:
        """What is wrong with an artifact's accuracy in a report of so many images that keeps to the schema, half a
        sentence each."""
        yield from ()

    def draw(self, sample: Any, output: Any, names: Sequence[str]) -> Image | None:
        """An artifact's output for a sample, drawn over its image; None where there is nothing to draw."""
        return None

    def small_pictures(self, sample: Any, outputs: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, str]]:
        """Labels and outputs (by the artifacts' names) of a sample, drawn: `image`, `shows`, `uri` each."""
        return []
