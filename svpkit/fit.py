"""The one training loop: precision, EMA, gradient clipping, choice of the best, checkpoint, resume.

Progress is counted in images; every random number belongs to (seed, step, position), so that the
batch may be cut over any number of processes and a run resumed at any step.
"""

import contextlib
import copy
import inspect
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svpkit import checkpoint, devices, draws, ranks
from svpkit.ema import Ema
from svpkit.errors import SvpkitError
from svpkit.progress import Progress

Loss = Callable[..., Tensor]
Augment = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Fetch = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Mix = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
# The shares of the run after which the schedule "step" goes on at a hundredth (Cao et al. 2019).
STEPS = (0.8, 0.9)


@dataclass(frozen=True)
class Plan:
    """How long and how to train: what the `train` table of a recipe holds too."""

    images: int
    batch: int
    lr: float
    schedule: str = "cosine"
    warmup: float = 0.05
    optimizer: str = "adam"
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.0


@dataclass
class Task:
    """What is trained on what.

    `order(step)` gives the positions of one batch, a pure function of the step; `fetch(positions)`
    their images uint8 (B, C, H, W) and labels int64 (B,). `loss(model, images, labels, seeds,
    part=)` defaults to the model's own forward, and is given `progress=`, the share of the run that
    is done, where it takes that. `mix(images, labels, partners, partner_labels, seeds)` comes after
    `augment`: a partner is the sample before it in the whole batch, the first one's the last, on
    however many processes. `validate(model)` gives scores; the weights of the best `select` (the
    highest, or the lowest where `lowest`) are kept when `choose` is true, else the last; before
    the share `choose_from` of the run nothing is chosen. `patience` validations without a better
    one end the training; 0 = none do.
    """

    order: Callable[[int], np.ndarray]
    fetch: Fetch
    loss: Loss | None = None
    augment: Augment | None = None
    mix: Mix | None = None
    validate: Callable[[nn.Module], dict[str, Any]] | None = None
    validations: int = 8
    select: str = "macro_auprc"
    lowest: bool = False
    choose: bool = False
    choose_from: float = 0.0
    patience: int = 0
    label: str = "training"


@dataclass
class Progressed:
    """Where a training stands: all that a checkpoint holds besides tensors."""

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -math.inf
    best_images: int = 0
    worse: int = 0


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8, rounded and clipped."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def learning_rate(plan: Plan, images: int) -> float:
    """Return the rate after `images`: linear warm-up over a share of the run, then the schedule."""
    start = plan.warmup * plan.images
    if images < start:
        return plan.lr * (images + plan.batch) / (start + plan.batch)
    if plan.schedule == "constant":
        return plan.lr
    if plan.schedule == "step":
        return plan.lr * 0.01 ** sum(images >= share * plan.images for share in STEPS)
    done = (images - start) / max(plan.images - start, 1)
    return plan.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def progress(plan: Plan, step: int) -> float:
    """Return the share of the run that is done before this step, in 0 .. 1."""
    return min(step * plan.batch / plan.images, 1.0)


def takes(call: Callable[..., Any], name: str) -> bool:
    """Return True when a function names this parameter."""
    return name in inspect.signature(call).parameters


def fit(
    model: nn.Module, plan: Plan, task: Task, *, out: Path, seed: int, precision: str = "auto"
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train a model and return it with its history; an interrupted training in `out` goes on.

    The weights returned are the moving average (`plan.ema` > 0), at the best validation when
    `task.choose`. The history has a row about every hundredth of the run: images, loss, rate, and
    `val` where it was validated. Raises SvpkitError when the loss stops being a number.
    """
    training = _Training(model, plan, task, out, seed, precision)
    with torch.random.fork_rng(), _prefetch(training) as batches:
        training.run(batches)
    return training.result(), training.at.history


class _Training:
    def __init__(
        self, model: nn.Module, plan: Plan, task: Task, out: Path, seed: int, precision: str
    ) -> None:
        self.plan, self.task, self.out, self.seed = plan, task, out, seed
        if plan.batch % ranks.size():
            raise SvpkitError(
                f"train.batch: {plan.batch} does not divide over {ranks.size()} processes"
            )
        device = devices.device()
        kind = devices.resolve_precision(precision, device)
        self.accelerator = _accelerator(kind)
        self.model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parts = _parts(self.model)
        optimizers = [_optimizer(plan, parameters) for parameters in parts.values()]
        self.wrapped, *prepared = self.accelerator.prepare(self.model, *optimizers)
        # only now: several processes give the weights new memory, which the average must follow
        self.averaged = Ema(self.model, plan.ema) if plan.ema else None
        self.optimizers = dict(zip(parts, prepared, strict=True))
        self.parameters = parts
        self.best: dict[str, Tensor] | None = None
        self.at = Progressed()
        self.steps = math.ceil(plan.images / plan.batch)
        self.device = device
        self._told = bool(task.loss) and takes(task.loss, "progress")
        self._losses: list[Tensor] = []
        self._resume()

    def run(self, batches: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        plan, task = self.plan, self.task
        done = min(self.at.step * plan.batch, plan.images)
        self.wrapped.train()
        with Progress(task.label, plan.images, done=done) as progress:
            while self.at.step < self.steps and not self._stopped():
                self._step(*batches(self.at.step))
                self.at.step += 1
                seen = self.at.step * plan.batch
                if self._due(100):
                    self._note(seen)
                if task.validate and self._due(task.validations):
                    self._validate(seen)
                if self._due(max(10, plan.images // 50_000)) and self.at.step < self.steps:
                    self._checkpoint()
                progress(plan.batch, self._caption())

    def result(self) -> nn.Module:
        model = self.averaged.module if self.averaged else self.model
        if self.best is not None:
            model.load_state_dict(self.best)
        self.accelerator.free_memory()
        return model.eval()

    def _step(self, images: Tensor, labels: Tensor) -> None:
        step, plan = self.at.step, self.plan
        _seed(draws.key(self.seed, "step", step, ranks.rank()) & (2**63 - 1), self.device)
        position = step * plan.batch + _mine(plan, self.task)
        seeds = draws.seeds(self.seed, "fit", index=position).to(self.device)
        x = to_float(images.to(self.device, non_blocking=True))
        y = labels.to(self.device, non_blocking=True)
        if self.task.augment:
            x, y = self.task.augment(x, y, seeds)
        if self.task.mix:
            seeds = seeds[1:]
            x, y = self.task.mix(x[1:], y[1:], x[:-1], y[:-1], seeds)
        for part, optimizer in self.optimizers.items():
            self._update(part, optimizer, x, y, seeds)
        if self.averaged:
            self.averaged.update(step)

    def _update(self, part: str, optimizer: Any, x: Tensor, y: Tensor, seeds: Tensor) -> None:
        rate = learning_rate(self.plan, self.at.step * self.plan.batch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        with self.accelerator.autocast():
            if self.task.loss:
                more = {"progress": progress(self.plan, self.at.step)} if self._told else {}
                loss = self.task.loss(self.wrapped, x, y, seeds, part=part, **more)
            else:
                loss = self.wrapped(x, y, seeds, part=part)
        self.accelerator.backward(loss)
        if self.plan.clip:
            self.accelerator.clip_grad_norm_(self.parameters[part], self.plan.clip)
        optimizer.step()
        self._losses.append(loss.detach())

    def _due(self, times: int) -> bool:
        # true `times` times over the run, the last time at its end
        step = self.at.step
        return step * times // self.steps > (step - 1) * times // self.steps

    def _note(self, seen: int) -> None:
        mean = torch.stack(self._losses).mean()
        loss = float(self.accelerator.gather(mean[None]).mean())  # type: ignore[union-attr]
        self._losses = []
        if not math.isfinite(loss):
            raise SvpkitError(
                f"{self.task.label}: the loss is {loss} at step {self.at.step} "
                f"({seen:,} images); try a smaller train.lr"
            )
        rate = learning_rate(self.plan, seen)
        self.at.history.append({"images": seen, "loss": loss, "lr": rate})

    def _validate(self, seen: int) -> None:
        model = self.averaged.module if self.averaged else self.model
        model.eval()
        assert self.task.validate
        scores = ranks.agree(self.task.validate(model))
        self.wrapped.train()
        self.at.history.append({"images": seen, "val": scores})
        value = scores.get(self.task.select)
        early = seen < self.task.choose_from * self.plan.images
        if not self.task.choose or early or value is None:
            return
        value = -value if self.task.lowest else value
        self.at.worse += 1
        if value > self.at.best:
            self.at.best, self.at.best_images, self.at.worse = value, seen, 0
            self.best = copy.deepcopy(model.state_dict())

    def _stopped(self) -> bool:
        return bool(self.task.patience) and self.at.worse >= self.task.patience

    def _caption(self) -> str:
        losses = [row["loss"] for row in self.at.history[-3:] if "loss" in row]
        return f", loss {losses[-1]:.4f}" if losses else ""

    def _state(self) -> dict[str, dict[str, Tensor]]:
        state = {"model": self.model.state_dict()}
        if self.averaged:
            state["ema"] = self.averaged.module.state_dict()
        if self.best is not None:
            state["best"] = self.best
        for part, optimizer in self.optimizers.items():
            state[f"optimizer.{part}"] = checkpoint.flatten(optimizer.state_dict()["state"])
        return state

    def _checkpoint(self) -> None:
        # what is written must be known to be sound: look at the losses since the last note
        sound = torch.isfinite(torch.stack(self._losses)).all() if self._losses else None
        if sound is not None and not bool(self.accelerator.gather(sound[None]).all()):  # type: ignore[union-attr]
            return
        extra = {**vars(self.at), "pending": [float(x) for x in self._losses]}
        extra["best"] = None if self.best is None else self.at.best
        scaler = self.accelerator.scaler
        extra["scaler"] = scaler.state_dict() if scaler else None
        ranks.on_main(lambda: checkpoint.save(self.out, self.at.step, self._state(), extra))

    def _resume(self) -> None:
        found = checkpoint.load(self.out)
        if found is None:
            return
        tensors, extra = found
        self.model.load_state_dict(tensors["model"])
        if self.averaged:
            self.averaged.module.load_state_dict(tensors["ema"])
        self.best = tensors.get("best")
        for part, optimizer in self.optimizers.items():
            state = checkpoint.unflatten(tensors.get(f"optimizer.{part}", {}))
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        if extra["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(extra["scaler"])
        best = -math.inf if extra["best"] is None else extra["best"]
        self.at = Progressed(
            extra["step"], extra["history"], best, extra["best_images"], extra["worse"]
        )
        self._losses = [torch.tensor(x, device=self.device) for x in extra["pending"]]


def _mine(plan: Plan, task: Task) -> np.ndarray:
    # this process's places in a batch; with partners, the place before its first comes first
    share = plan.batch // ranks.size()
    start = ranks.rank() * share
    return np.arange(start - bool(task.mix), start + share) % plan.batch


@contextlib.contextmanager
def _prefetch(training: _Training) -> Iterator[Callable[[int], tuple[Tensor, Tensor]]]:
    # the next batch is gathered from disk while the network works on this one
    mine = _mine(training.plan, training.task)

    def gather(step: int) -> tuple[Tensor, Tensor]:
        images, labels = training.task.fetch(training.task.order(step)[mine])
        pair = torch.from_numpy(images), torch.from_numpy(labels)
        return (pair[0].pin_memory(), pair[1]) if training.device.type == "cuda" else pair

    with ThreadPoolExecutor(1) as pool:
        ahead = {}

        def batch(step: int) -> tuple[Tensor, Tensor]:
            now = ahead.pop(step, None) or pool.submit(gather, step)
            if step + 1 < training.steps:
                ahead[step + 1] = pool.submit(gather, step + 1)
            return now.result()

        yield batch


def _accelerator(precision: str) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # one run trains several models, each in its own precision: only the processes are shared
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision="no" if precision == "fp32" else precision)


def _parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    named = model.parts() if hasattr(model, "parts") else {"main": model.parameters()}  # type: ignore[operator]
    return {name: [p for p in some if p.requires_grad] for name, some in named.items()}


def _optimizer(plan: Plan, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, plan.lr, momentum=0.9, nesterov=True, weight_decay=plan.weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[plan.optimizer]
    return kind(parameters, plan.lr, weight_decay=plan.weight_decay)


def _seed(seed: int, device: torch.device) -> None:
    # torch.manual_seed reaches for every kind of device, a millisecond where CUDA sleeps
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
