"""Adam on what learns, in stages; samples held out decide what is kept."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter
from milpasses.interpreter.batch import BatchRun
from milpasses.tuning.clock import Stage
from milpasses.tuning.learned import Learned
from milpasses.tuning.objective import loss

_CHECK, _PATIENCE = 25, 8  # steps between looks at held-out samples; looks without a gain that end a stage


@attrs.frozen
class Score:
    """Held-out samples: the mean loss of each output, and its 10 log10(sum y^2 / sum (y - y')^2)."""

    losses: tuple[float, ...]
    decibels: tuple[float, ...]

    @property
    def total(self) -> float:
        """Sum of the losses."""
        return sum(self.losses)

    def worse_than(self, other: "Score") -> bool:
        """Some output loses more."""
        return any(not a <= b for a, b in zip(self.losses, other.losses, strict=True))


@attrs.define(eq=False)
class Trainer:
    """Fits ``learned``, by variable names, so that ``run`` gives ``targets`` for ``inputs``.

    ``probabilities``: which outputs are. ``fit`` and ``held_out``: places of samples.
    """

    interpreter: Interpreter
    run: BatchRun
    learned: Mapping[tuple[str, ...], Learned]
    inputs: Mapping[str, Any]
    targets: Sequence[Any]
    probabilities: Sequence[bool]
    fit: Sequence[int]
    held_out: Sequence[int]
    batch: int
    seed: int

    def _outputs(self, places: Any) -> list[Any]:
        return self.run({name: rows[places] for name, rows in self.inputs.items()})

    def _apply(self) -> None:
        values: dict[str, Any] = {}
        for names, one in self.learned.items():
            value = one.value()  # a weight that several variables are is one
            values.update(dict.fromkeys(names, value))
        self.interpreter.override(values)

    def score(self) -> Score:
        """On the held-out samples, as they are now."""
        count = len(self.targets)
        totals, errors, signals = [0.0] * count, [0.0] * count, [0.0] * count
        with torch.no_grad():
            self._apply()
            for start in range(0, len(self.held_out), self.batch):
                places = list(self.held_out[start : start + self.batch])
                for i, output in enumerate(self._outputs(places)):
                    target = self.targets[i][places]
                    totals[i] += float(loss(output, target, self.probabilities[i]).sum())
                    errors[i] += float(((output - target) ** 2).sum())
                    signals[i] += float((target**2).sum())
        ratios = zip(signals, errors, strict=True)
        return Score(
            tuple(total / len(self.held_out) for total in totals),
            tuple(10 * math.log10(s / e) if s > 0 and e > 0 else math.inf for s, e in ratios),
        )

    def _snapshot(self) -> list[Any]:
        with torch.no_grad():
            return [p.clone() for one in self.learned.values() for p, _ in one.parameters]

    def _restore(self, kept: Sequence[Any]) -> None:
        tensors = [p for one in self.learned.values() for p, _ in one.parameters]
        with torch.no_grad():
            for tensor, value in zip(tensors, kept, strict=True):
                tensor.copy_(value)

    def check_gradients(self) -> list[str]:
        """Names of the weights that no gradient reaches; MilpassesError where it reaches none of them."""
        self._apply()
        first = list(self.fit[:1])
        losses = [
            loss(output, target[first], kind).sum()
            for output, target, kind in zip(
                self._outputs(first), self.targets, self.probabilities, strict=True
            )
        ]
        total = torch.stack(losses).sum()
        cuts: dict[str, str] = getattr(self.interpreter.values, "cuts", {})
        named = ", ".join(f"{kind} {name}" for name, kind in cuts.items()) or "no op takes what is learned"
        if not total.requires_grad:
            raise MilpassesError(f"no gradient reaches any weight: it ends at {named}")
        firsts = [one.parameters[0][0] for one in self.learned.values()]
        gradients: Any = torch.autograd.grad(total, firsts, allow_unused=True)
        return [names[0] for names, g in zip(self.learned, gradients, strict=True) if g is None]

    def stage(self, start: Score, stage: Stage) -> Score:
        """Learn while ``stage`` lasts; keep the best, no output of which is worse than ``start``."""
        groups: list[dict[str, Any]] = [
            {"params": [p], "lr": lr} for one in self.learned.values() for p, lr in one.parameters
        ]
        rates: list[float] = [group["lr"] for group in groups]
        adam: Any = torch.optim.Adam(groups, betas=(0.9, 0.95))
        draw = torch.Generator().manual_seed(self.seed)
        best, kept, since = self.score(), self._snapshot(), 0
        for done in range(stage.steps):
            spent = stage.done(done)
            if spent >= 1:
                break
            for group, rate in zip(adam.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * spent))
            chosen = torch.randperm(len(self.fit), generator=draw)[: self.batch].tolist()
            places = [self.fit[i] for i in chosen]
            self._apply()
            outputs = self._outputs(places)
            parts = zip(outputs, self.targets, self.probabilities, strict=True)
            total = torch.stack([loss(o, t[places], kind).mean() for o, t, kind in parts]).sum()
            if not bool(torch.isfinite(total)):
                self._restore(kept)
                raise MilpassesError(
                    "the loss is not finite: an output overflows float16, or a sample holds NaN"
                )
            adam.zero_grad()
            total.backward()
            adam.step()
            if (done + 1) % _CHECK and done + 1 < stage.steps:
                continue
            now = self.score()
            if now.total < best.total and not now.worse_than(start):
                best, kept, since = now, self._snapshot(), 0
            else:
                since += 1
                if since == _PATIENCE:
                    break
        stage.done(stage.steps)
        self._restore(kept)
        return best
