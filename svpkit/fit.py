"""The one training loop: precision, EMA, gradient clipping, choice of the best, checkpoint, resume.

Progress is counted in images; every random number belongs to (seed, step, position), so that the
batch may be cut over any number of processes and a run resumed at any step.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from svpkit import checkpoint, devices, draws, events, ranks, signals
from svpkit.asked import Asked
from svpkit.batches import places, prefetched, to_float, to_uint8
from svpkit.ema import Ema
from svpkit.errors import SvpkitError
from svpkit.optimizers import members, optimizer_of, others, parts_of, still
from svpkit.pieces import Running, cut, say_pieces
from svpkit.plans import Augment, Plan, Task, learning_rate, progress, takes
from svpkit.progress import Progress, tell

__all__ = [
    "Augment",
    "Plan",
    "Task",
    "fit",
    "learning_rate",
    "places",
    "progress",
    "takes",
    "to_float",
    "to_uint8",
]

# In fp16 gradients that overflow halve the scale; at this one they are no numbers at any scale.
LEAST_SCALE = 2.0**-14


@dataclass
class Progressed:
    """Where a training stands: all that a checkpoint holds besides tensors."""

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -math.inf
    best_images: int = 0
    worse: int = 0
    pieces: int = 1


def fit(
    model: nn.Module, plan: Plan, task: Task, *, out: Path, seed: int, precision: str = "auto"
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train a model and return it with its history; an interrupted training in `out` goes on.

    The weights returned are the moving average (`plan.ema` > 0), at the best validation when
    `task.choose`. The history has a row about every hundredth of the run: images, loss, rate, and
    `val` where it was validated. Raises SvpkitError when the loss or a gradient stops being a
    number: what broke is neither validated nor written.

    A model of several `parts()` has an optimizer for each; every batch updates them in that order,
    the others held still. Their losses are told apart in `losses`; `loss` is the mean of them.

    Where the device has no room for a batch, it is worked on in pieces (`pieces` of the history),
    each weighed by its share; a batch norm then sees a piece at a time. A first SIGINT or SIGTERM
    ends the training after a checkpoint at that very step, a second one at once.
    """
    training = _Training(model, plan, task, out, seed, precision)
    pin = training.device.type == "cuda"
    with torch.random.fork_rng(), prefetched(plan, task, training.steps, pin=pin) as batches:
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
        self.model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parts = parts_of(self.model)
        self.accelerator = _accelerator(kind, len(parts) > 1)
        optimizers = [optimizer_of(plan, groups) for groups in parts.values()]
        self.wrapped, *prepared = self.accelerator.prepare(self.model, *optimizers)
        # only now: several processes give the weights new memory, which the average must follow
        self.averaged = Ema(self.model, plan.ema) if plan.ema else None
        self.optimizers = dict(zip(parts, prepared, strict=True))
        self.parameters = {part: members(groups) for part, groups in parts.items()}
        # looked up once: walking the modules at every step would cost as much as a small network
        self.others = {p: others(self.model, own) for p, own in self.parameters.items()}
        self.running = Running(self.model)
        self.best: dict[str, Tensor] | None = None
        self.at = Progressed()
        self.steps = math.ceil(plan.images / plan.batch)
        self.device = device
        self._told = bool(task.loss) and takes(task.loss, "progress")
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._kept = -1
        self._resume()

    def run(self, batches: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        plan = self.plan
        done = min(self.at.step * plan.batch, plan.images)
        self.wrapped.train()
        label = events.label(self.task.label)
        with Progress(label, plan.images, done=done) as counted, signals.held() as told:
            asked = Asked(told, self.at.step)
            try:
                while self._goes_on(asked):
                    self._step(*batches(self.at.step))
                    self._after_step()
                    counted(plan.batch, self._caption())
            except torch.OutOfMemoryError as error:
                raise SvpkitError(self._no_room(str(error))) from None

    def result(self) -> nn.Module:
        model = self.averaged.module if self.averaged else self.model
        if self.best is not None:
            model.load_state_dict(self.best)
        ranks.same(model)
        self.accelerator.free_memory()
        return model.eval()

    def _goes_on(self, asked: Asked) -> bool:
        patience = self.task.patience
        ends = self.at.step >= self.steps or bool(patience and self.at.worse >= patience)
        if number := asked(self.at.step, last=ends):
            self._checkpoint()
            signals.end(number)
        return not ends

    def _after_step(self) -> None:
        self.at.step += 1
        seen = self.at.step * self.plan.batch
        if self._due(100):
            self._note(seen)
        if self.task.validate and self._due(self.task.validations):
            self._validate(seen)
        if self._due(max(10, self.plan.images // 50_000)) and self.at.step < self.steps:
            self._checkpoint()

    def _step(self, images: Tensor, labels: Tensor) -> None:
        step, plan = self.at.step, self.plan
        _seed(draws.key(self.seed, "step", step, ranks.rank()) & (2**63 - 1), self.device)
        position = step * plan.batch + places(plan, self.task)
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

    def _update(self, part: str, optimizer: Any, *batch: Tensor) -> None:
        rate = learning_rate(self.plan, self.at.step * self.plan.batch)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)
        self.running.keep()
        loss = None
        while loss is None:
            optimizer.zero_grad(set_to_none=True)
            loss = self._gradients(part, batch)
        self._norms.append(self._clip(part, optimizer))
        optimizer.step()
        self._losses.append(loss.float())

    def _gradients(self, part: str, batch: tuple[Tensor, ...]) -> Tensor | None:
        # None where there was no room for it: what the attempt changed is put back
        try:
            with still(self.others[part]):
                pieces = cut(batch, self.at.pieces)
                return torch.stack([self._backward(part, *piece) for piece in pieces]).sum(dim=0)
        except torch.OutOfMemoryError as error:
            size, said = len(batch[0]), str(error)
            if ranks.many() or self.at.pieces >= size:
                raise SvpkitError(self._no_room(said)) from None
        self.running.put_back()
        self.at.pieces = min(2 * self.at.pieces, size)
        say_pieces(self.task.label, self.device, size, self.at.pieces)
        return None

    def _backward(self, part: str, share: float, k: int, *piece: Tensor) -> Tensor:
        if self.at.pieces > 1:
            # of its own: what it draws must not depend on an attempt that found no room
            role = ("step", self.at.step, ranks.rank(), part, k)
            _seed(draws.key(self.seed, *role) & (2**63 - 1), self.device)
        with self.accelerator.autocast():
            loss = self._loss(part, *piece)
        loss = loss if share == 1 else loss * share
        self.accelerator.backward(loss)
        return loss.detach()

    def _clip(self, part: str, optimizer: Any) -> Tensor:
        """Return the norm of a part's gradients, after which they are clipped."""
        own = self.parameters[part]
        if self.plan.clip:
            # not the accelerator's own clipping: that would unscale the other parts' gradients too
            self.accelerator.unscale_gradients(optimizer)
            norm = nn.utils.clip_grad_norm_(own, self.plan.clip)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in own if p.grad is not None])
        # fp16 finds its scale by gradients that overflow, and leaves their step out
        return torch.zeros((), device=self.device) if self._scale() else norm.to(self.device)

    def _loss(self, part: str, x: Tensor, y: Tensor, seeds: Tensor) -> Tensor:
        if not self.task.loss:
            return self.wrapped(x, y, seeds, part=part)
        more = {"progress": progress(self.plan, self.at.step)} if self._told else {}
        return self.task.loss(self.wrapped, x, y, seeds, part=part, **more)

    def _due(self, times: int) -> bool:
        # true `times` times over the run, the last time at its end
        step = self.at.step
        return step * times // self.steps > (step - 1) * times // self.steps

    def _note(self, seen: int) -> None:
        self._check()
        # one loss a part and step, in the order in which they came
        count = len(self.optimizers)
        means = torch.stack([torch.stack(self._losses[k::count]).mean() for k in range(count)])
        every = self.accelerator.gather(means).view(-1, count).mean(dim=0)  # type: ignore[union-attr]
        losses = dict(zip(self.optimizers, every.tolist(), strict=True))
        self._losses = []
        loss = sum(losses.values()) / count
        row = {"images": seen, "loss": loss, "lr": learning_rate(self.plan, seen)}
        row |= {"losses": losses} if count > 1 else {}
        row |= {"pieces": self.at.pieces} if self.at.pieces > 1 else {}
        self._remember(row)

    def _check(self) -> None:
        # what is told, validated or written must be sound; looked at only then, as every look at a
        # GPU's numbers waits for it
        if not (n := len(self._norms)):
            return
        found = torch.stack([torch.stack(self._losses[-n:]), torch.stack(self._norms)])
        sound = torch.isfinite(found).all(dim=0)
        every = self.accelerator.gather(sound[None]).all(dim=0)  # type: ignore[union-attr]
        self._norms = []
        if not bool(every.all()):
            k = every.tolist().index(False)
            self._stop(k, n, float(found[0, k]))
        scaler = self._scale()
        if scaler and scaler.get_scale() < LEAST_SCALE:
            self._stop(n - 1, n, 0.0)

    def _stop(self, k: int, n: int, loss: float) -> NoReturn:
        # the k-th of the last n updates broke first, and took the others with it
        parts = list(self.optimizers)
        named = f" of '{parts[k % len(parts)]}'" if len(parts) > 1 else ""
        broke = f"the gradient{named} is not finite"
        if not math.isfinite(loss):
            broke = f"the loss{named} is {loss}"
        step = self.at.step - (n - 1 - k) // len(parts)
        raise SvpkitError(
            f"{self.task.label}: {broke} at step {step} ({step * self.plan.batch:,} images); "
            "try a smaller train.lr"
        )

    def _no_room(self, said: str) -> str:
        share = self.plan.batch // ranks.size()
        return (
            f"{self.task.label}: out of memory on {self.device} with {share} images a process; "
            f"try a smaller train.batch ({' '.join(said.split())[:120]})"
        )

    def _validate(self, seen: int) -> None:
        self._check()
        model = self.averaged.module if self.averaged else self.model
        ranks.same(model)
        model.eval()
        assert self.task.validate
        scores = ranks.agree(self.task.validate(model))
        self.wrapped.train()
        self._remember({"images": seen, "val": scores})
        value = scores.get(self.task.select)
        early = seen < self.task.choose_from * self.plan.images
        if not self.task.choose or early or value is None:
            return
        value = -value if self.task.lowest else value
        self.at.worse += 1
        if value > self.at.best:
            self.at.best, self.at.best_images, self.at.worse = value, seen, 0
            self.best = copy.deepcopy(model.state_dict())

    def _remember(self, row: dict[str, Any]) -> None:
        self.at.history.append(row)
        events.tell(events.TRAINING, training=self.task.label, **row)

    def _caption(self) -> str:
        rows = [row for row in self.at.history[-3:] if "loss" in row]
        if not rows:
            return ""
        each = rows[-1].get("losses") or {"loss": rows[-1]["loss"]}
        return "".join(f", {name} {value:.4f}" for name, value in each.items())

    def _scale(self) -> Any:
        return self.accelerator.scaler

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
        if self._kept == self.at.step:
            return
        self._check()
        extra = {**vars(self.at), "pending": [float(x) for x in self._losses]}
        extra["best"] = None if self.best is None else self.at.best
        extra["scaler"] = scaler.state_dict() if (scaler := self._scale()) else None
        ranks.on_main(lambda: checkpoint.save(self.out, self.at.step, self._state(), extra))
        self._kept = self.at.step

    def _resume(self) -> None:
        # what a kill left in the making, where no later checkpoint sweeps it away
        ranks.on_main(lambda: checkpoint.sweep(self.out))
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
        if extra["scaler"] and self._scale():
            self._scale().load_state_dict(extra["scaler"])
        kept = {each.name: extra[each.name] for each in fields(Progressed)}
        self.at = Progressed(**kept)
        self.at.best = -math.inf if extra["best"] is None else extra["best"]
        self._kept = self.at.step
        self._losses = [torch.tensor(x, device=self.device) for x in extra["pending"]]
        seen = min(self.at.step * self.plan.batch, self.plan.images)
        tell(f"{events.label(self.task.label)}: going on from a checkpoint at {seen:,} images")


def _accelerator(precision: str, several: bool) -> Any:
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    # one run trains several models, each in its own precision: only the processes are shared
    AcceleratorState._reset_state()
    # a part's loss does not reach the parameters of the others, and nobody may wait for those
    unused: list[Any] = (
        [DistributedDataParallelKwargs(find_unused_parameters=True)] if several else []
    )
    kind = "no" if precision == "fp32" else precision
    return Accelerator(mixed_precision=kind, kwargs_handlers=unused)


def _seed(seed: int, device: torch.device) -> None:
    # torch.manual_seed reaches for every kind of device, a millisecond where CUDA sleeps
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
