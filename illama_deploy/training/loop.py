"""The loop: float networks and quantized ones alike.

A run is a function of its recipe, its data and its starting weights: what is random in an update is drawn from a seed
for that update (`images.py`), learning rate and mask are functions of its number, so that the state to save is weights,
optimizer, loss scale, averaged weights, and the position. `docs/train.md` explains the whole on one page.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ending
from ..compilation import compiling
from ..data import Batch
from ..errors import CheckpointError, DataError, RecipeError, TrainingError, UsageError, parameter
from ..model.network import Network
from ..progress import track
from .images import Images, dead_workers_named, seed_everything
from .options import RunOptions
from .processes import Processes
from .recipe import FUSED
from .run import RunDirectory, headline
from .state import Means, Position

__all__ = ["Judge", "Objective", "Trainer"]

#: A network, held-out images and the processes that share them, to figures; the first is the one to look at.
Judge = Callable[[Network, Iterable[Batch], Processes], dict[str, Any]]


class Objective(nn.Module):
    """images [B, C, H, W] and targets ([B], [B, classes] or, of pixels, [B, H, W]) to the loss: labels, and the teacher
    where there is one."""

    def __init__(self, model: Network, teacher: Network | None, images: Images) -> None:
        super().__init__()
        self.model, self.recipe = model, images.recipe
        self.loss, self.divergence = images.loss, images.divergence
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        recipe = self.recipe
        stream = list(self.model.stream(images))
        logits = self.model.decode(stream).float()
        loss = self.loss(logits, targets, recipe.smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            wanted = list(self.teacher.stream(images))
            wanted_logits = self.teacher.decode(wanted).float()
        divergence = self.divergence(logits, wanted_logits, recipe.temperature)
        loss = (1 - recipe.teacher) * loss + recipe.teacher * divergence
        if recipe.features:
            for x, y in zip(stream, wanted, strict=True):
                apart = F.mse_loss(x.float(), y.float()) / y.float().square().mean()
                loss = loss + recipe.features / len(stream) * apart
        return loss


class Trainer:
    """Trains `model`, in place.

    Args:
        held_out: images on which accuracy is measured; this process's share.
        judge: measures it.
        finish: makes of the model in training the network that is evaluated and kept: a copy.
        keep: gets that network each time it is evaluated, in the process that writes.
    """

    def __init__(
        self,
        model: Network,
        teacher: Network | None,
        images: Images,
        held_out: Iterable[Batch],
        run: RunDirectory,
        options: RunOptions,
        *,
        judge: Judge,
        finish: Callable[[Network], Network],
        keep: Callable[[Network], None] = lambda network: None,
    ) -> None:
        from timm.data import Mixup
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3

        recipe, processes = images.recipe, images.processes
        self.model, self.images, self.held_out, self.run, self.options = model, images, held_out, run, options
        self.recipe, self.processes, self.device = recipe, processes, processes.device
        self.judge, self.finish, self.keep = judge, finish, keep
        self.objective: nn.Module = Objective(model, teacher, images).to(self.device)
        self.ema = ModelEmaV3(model, recipe.ema) if recipe.ema else None
        fused = {"fused": True} if recipe.optimizer in FUSED else {}
        self.optimizer = create_optimizer_v2(
            model, recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, **fused
        )
        self.dtype = getattr(torch, recipe.precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.mixup = None
        if recipe.mixup or recipe.cutmix:
            self.mixup = Mixup(
                recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=images.classes
            )
        self.epoch = self.step = 0
        self.sums = [0.0, 0.0]  # loss and updates of this epoch
        self._restore()
        if options.compile:
            for block in (*model.blocks, *(teacher.blocks if teacher is not None else ())):
                block.compile()
        if processes.count > 1:
            # BatchNorm counts the images of all processes where torch can, else those of the first.
            normed = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
            if normed and self.device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(self.objective)  # type: ignore[no-untyped-call]
            self.objective = nn.parallel.DistributedDataParallel(self.objective, broadcast_buffers=normed)

    @property
    def updates(self) -> int:
        """Updates done."""
        return self.epoch * self.images.steps + self.step

    @property
    def parts(self) -> dict[str, Any]:
        """What has a state."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        return {**parts, "ema": self.ema} if self.ema is not None else parts

    def _restore(self) -> None:
        """Go on from what the run has saved; say what will round otherwise than it did.

        Raises:
            UsageError: with another number of threads, which was asked for.
            CheckpointError: the state is another network's.
        """
        if (saved := self.run.saved) is None:
            if self.device.type == "cpu":
                self._say(
                    f"Threads: {self._means().threads}; with another number the weights differ in their last bits."
                )
            return
        then, now = saved.means, self._means()
        if self.options.threads not in (None, then.threads) and not self.options.force:
            raise UsageError(
                f"The run that is there is another one:\n    threads: {then.threads} there, {now.threads} now",
                where=self.run.state_file,
                hint=f"Leave {parameter('threads')} out, or go on all the same with "
                f"{parameter(resume=True, force=True)}.",
            )
        if self.options.threads is None and then.threads != now.threads:
            torch.set_num_threads(then.threads)
            self._say(f"Going on with {then.threads} threads, as the run was begun (here: {now.threads}).")
        for field in fields(then):
            was, will = getattr(then, field.name), getattr(self._means(), field.name)
            if was != will:
                name = field.name.replace("_", " ")
                self._say(f"Begun with {name} {was}, going on with {will}: the weights will differ in their last bits.")
        own = [{key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups]
        try:
            for name, part in self.parts.items():
                if name == "optimizer" and "recipe.optimizer" in self.run.changed:
                    self._say("The optimizer is another one and begins anew.")
                elif name not in saved.parts:
                    raise ValueError(f"it holds no {name}")
                else:
                    part.load_state_dict(saved.parts[name])
            self._check_moments()
        except Exception as error:  # torch raises whatever does not fit
            why = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f"The run's state is not of this network ({why[:200].rstrip('.')}).",
                where=self.run.state_file,
                hint=f"Repeat the options that it was begun with, or begin anew with {parameter(force=True)}.",
            ) from error
        for group, options in zip(self.optimizer.param_groups, own, strict=True):
            group.update(options)  # the recipe's, also where it has changed
        at = saved.position
        if at.step > self.images.steps or at.updates != at.epoch * self.images.steps + at.step:
            what = f"it stands at update {at.step} of epoch {at.epoch + 1}, and an epoch has {self.images.steps}"
            if not self.run.changed:
                raise CheckpointError(
                    f"The run's state is not of these images ({what}).",
                    where=self.run.state_file,
                    hint=f"Give the data that it was begun with, or begin anew with {parameter(force=True)}.",
                )
            if at.step:
                self._say(f"The run's state: {what}; going on at the epoch's start.")
            at = replace(at, step=0, sums=(0.0, 0.0))
        self.epoch, self.step, self.sums = at.epoch, at.step, list(at.sums)
        self.run.saved = None

    def _check_moments(self) -> None:
        """Hold the optimizer's state to the parameters' shapes, where it has one number for each.

        Raises:
            ValueError: it has another shape.
        """
        if self.recipe.optimizer not in FUSED:
            return
        for weight, values in self.optimizer.state.items():
            for name, value in values.items():
                wanted = torch.Size() if name == "step" else weight.shape
                if isinstance(value, Tensor) and value.shape != wanted:
                    raise ValueError(f"{name} has shape {list(value.shape)}, not {list(wanted)}")

    def _means(self) -> Means:
        cuda = self.device.type == "cuda"
        return Means(
            threads=torch.get_num_threads(),
            processes=self.processes.count,
            micro_batch=self.images.micro_batch,
            compiled=self.options.compile,
            device=torch.cuda.get_device_name(self.device) if cuda else torch.backends.cpu.get_cpu_capability(),
            torch=str(torch.__version__),
        )

    def _say(self, line: str) -> None:
        if self.run.writes:
            self.options.say(line)

    def save(self) -> None:
        """Save the state, unless it has become no number."""
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise self._not_finite("A weight")
        position = Position(self.epoch, self.step, self.updates, (self.sums[0], self.sums[1]))
        self.run.save(position, self._means(), {name: part.state_dict() for name, part in self.parts.items()})
        self.saved_at = time.monotonic()

    def fit(self) -> tuple[Network, dict[str, Any]]:
        """Train to the end: the network, and the last epoch's record.

        Raises:
            TrainingError: the loss is no number, a signal came, or a worker died; the state says where to go on.
        """
        self.save()  # so that what was begun is known
        compiled = compiling() if self.options.compile else nullcontext()
        with _signals() as received, dead_workers_named(self.images.source.spec), compiled:
            while self.epoch < self.recipe.epochs:
                try:
                    self._train_epoch(received)
                except (DataError, RecipeError):  # of an image, or of what is done to it: what was done is kept
                    self.save()
                    raise
                self._end_epoch()
        network = self.finish(self._averaged())
        self.run.plot()
        return network, self.run.records()[-1] if self.run.writes else {}

    def _train_epoch(self, received: list[int]) -> None:
        recipe = self.recipe
        self.model.train()
        batches = self.images.epoch(self.epoch, self.step)
        start, first = time.monotonic(), self.step
        for pieces in track(batches, f"Epoch {self.epoch + 1} of {recipe.epochs}", self.images.steps - self.step):
            lr, mask = recipe.lr_at(self.updates, self.images.steps), self._set_mask(self.updates)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            loss, stop = self._update(pieces, bool(received))
            if not math.isfinite(loss):
                raise self._not_finite("The loss")
            self.step += 1
            self.sums = [self.sums[0] + loss, self.sums[1] + 1]
            speed = (self.step - first) * recipe.batch_size / (time.monotonic() - start)
            at = round(self.updates / self.images.steps, 4)
            self.run.log(updates=self.updates, epoch=at, loss=loss, lr=lr, mask=mask, images_per_s=round(speed, 1))
            if stop or time.monotonic() - self.saved_at > 60 * self.options.save_minutes:
                self.save()
            if stop:
                name = signal.Signals(received[0]).name if received else "a signal to another process"
                raise TrainingError(
                    f"Stopped by {name} after {self.updates} updates; all that was done is kept.",
                    where=self.run.state_file,
                    hint=f"Go on with the same command and {parameter(resume=True)}.",
                )

    def _update(self, pieces: Sequence[Batch], stop: bool) -> tuple[float, bool]:
        """One update: (the loss over all processes, whether one of them was told to stop)."""
        told = torch.tensor([0.0, float(stop)], device=self.device)
        for i, piece in enumerate(pieces):
            seed_everything(self.recipe.seed, "update", self.updates, self.processes.rank, i)
            images, targets = piece.images.to(self.device), piece.labels.to(self.device)
            if self.mixup is not None:
                images, targets = self.mixup(images, targets)
            alone = self.processes.count == 1 or i == len(pieces) - 1
            with nullcontext() if alone else self.objective.no_sync():  # type: ignore[operator]
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    loss = self.objective(images, targets) / len(pieces)
                self.scaler.scale(loss).backward()
            told[0] += loss.detach()
        loss, stopped = (self.processes.add(told) / self.processes.count).tolist()
        if math.isfinite(loss):
            if self.recipe.clip_grad:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.ema is not None:
                self.ema.update(self.model)
        self.optimizer.zero_grad()
        return loss, stopped > 0

    def _end_epoch(self) -> None:
        self.save()  # one that is killed while it evaluates goes on here
        mask, loss = self._set_mask(self.updates - 1), self.sums[0] / self.sums[1]
        record: dict[str, Any] = {"updates": self.updates, "epoch": self.epoch + 1, "mean_loss": loss, "mask": mask}
        line = f"epoch {self.epoch + 1} of {self.recipe.epochs}: loss {loss:.4f}, mask {mask:.2f}"
        self.epoch, self.step, self.sums = self.epoch + 1, 0, [0.0, 0.0]
        if self.epoch % self.recipe.evaluate_every == 0 or self.epoch == self.recipe.epochs:
            network = self.finish(self._averaged())
            figures = self.judge(network, self.held_out, self.processes)
            record.update(figures)
            line += f", {headline(figures)}"
            if self.run.writes:
                self.keep(network)
        self.run.log(**record)
        if self.run.writes:
            self.options.say(line)

    def _set_mask(self, update: int) -> float:
        """Open the mask as far as an update says, in the averaged network too, and return how far."""
        mask = self.recipe.mask_at(update, self.images.steps)
        for model in {self.model, self._averaged()}:
            if model.soft_mask != mask:
                model.set_soft_mask(mask)
        return mask

    def _averaged(self) -> Network:
        return self.model if self.ema is None else self.ema.module

    def _not_finite(self, what: str) -> TrainingError:
        kept = self.run.state_file.exists()
        return TrainingError(
            f"{what} is no finite number after {self.updates} updates.",
            where=f"epoch {self.epoch + 1}, update {min(self.step + 1, self.images.steps)} of {self.images.steps}",
            hint=(f"The last good state is {self.run.state_file}. " if kept else "")
            + f"Lower {parameter('lr')}, and go on with {parameter(resume=True, force=True)} or begin anew.",
        )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the first signal to stop instead of being interrupted; a second one interrupts."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in ending.SIGNALS}
    if hasattr(signal, "SIGHUP") and before[signal.SIGHUP] == signal.SIG_IGN:  # nohup: it goes on without a terminal
        del before[signal.SIGHUP]

    def receive(number: int, frame: object) -> None:
        received.append(number)
        for known, handler in before.items():
            signal.signal(known, handler)

    try:
        for number in before:
            signal.signal(number, receive)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
