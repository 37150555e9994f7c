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

_CHECK = 25  # steps between looks at held-out samples
_FAILURES = 6  # times that a stage begins again, at half its rates, from the best it has found
_SLOWER = 0.5  # what learns beside codes


@attrs.frozen
class Score:
    """Held-out samples: the mean loss of each output, and its 10 log10(sum y^2 / sum (y - y')^2)."""

    losses: tuple[float, ...]
    decibels: tuple[float, ...]

    def rank(self, start: "Score") -> tuple[bool, float]:
        """Less is better: no output loses more than at the ``start``, then the sum of the losses."""
        worse = any(not a <= b for a, b in zip(self.losses, start.losses, strict=True))
        total = sum(self.losses)
        return worse, total if math.isfinite(total) else math.inf


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

    def _losses(self, places: Sequence[int]) -> tuple[list[Any], list[Any]]:
        """The outputs for the samples at ``places``, and the losses of each: a tensor an output."""
        outputs = self.run({name: rows[places] for name, rows in self.inputs.items()})
        parts = zip(outputs, self.targets, self.probabilities, strict=True)
        return outputs, [loss(output, target[places], kind) for output, target, kind in parts]

    def apply(self) -> None:
        """Let the interpreter run with what is learned so far."""
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
            self.apply()
            for start in range(0, len(self.held_out), self.batch):
                places = list(self.held_out[start : start + self.batch])
                outputs, losses = self._losses(places)
                for i, (output, lost) in enumerate(zip(outputs, losses, strict=True)):
                    target = self.targets[i][places]
                    totals[i] += float(lost.sum())
                    errors[i] += float(((output - target) ** 2).sum())
                    signals[i] += float((target**2).sum())
        ratios = zip(signals, errors, strict=True)
        return Score(
            tuple(total / len(self.held_out) for total in totals),
            tuple(10 * math.log10(s / e) if s > 0 and e > 0 else math.inf for s, e in ratios),
        )

    def _tensors(self) -> list[Any]:
        return [
            tensor
            for one in self.learned.values()
            for tensor in (*(tensor for tensor, _ in one.parameters), one.latent)
            if tensor is not None
        ]

    def snapshot(self) -> list[Any]:
        """All that is learned, for ``restore``."""
        return [tensor.detach().clone() for tensor in self._tensors()]

    def restore(self, kept: list[Any]) -> None:
        """As it was at the ``snapshot``."""
        with torch.no_grad():
            for tensor, value in zip(self._tensors(), kept, strict=True):
                tensor.copy_(value)

    def check_gradients(self) -> list[str]:
        """Names of the weights that no gradient reaches; MilpassesError where it reaches none of them."""
        self.apply()
        total = torch.stack([lost.sum() for lost in self._losses(list(self.fit[:1]))[1]]).sum()
        cuts: dict[str, str] = getattr(self.interpreter.values, "cuts", {})
        named = ", ".join(f"{kind} {name}" for name, kind in cuts.items()) or "no op takes what is learned"
        if not total.requires_grad:
            raise MilpassesError(f"no gradient reaches any weight: it ends at {named}")
        firsts = [one.parameters[0][0] for one in self.learned.values()]
        gradients: Any = torch.autograd.grad(total, firsts, allow_unused=True)
        return [names[0] for names, g in zip(self.learned, gradients, strict=True) if g is None]

    def _optimizer(self, codes: float, factor: float) -> tuple[Any, list[float]]:
        """Adam for what learns, and its rates; ``codes``: theirs, in steps between codes."""
        groups: list[dict[str, Any]] = []
        for one in self.learned.values():
            slower = _SLOWER if codes else 1.0
            groups += [{"params": [p], "lr": factor * slower * rate} for p, rate in one.parameters]
            if codes and one.latent is not None:
                groups.append({"params": [one.latent], "lr": factor * codes})
        return torch.optim.Adam(groups, betas=(0.9, 0.95)), [group["lr"] for group in groups]

    def learn(self, start: Score, stage: Stage, codes: float = 0.0) -> Score:
        """Learn while ``stage`` lasts; keep the best, no output of which is worse than ``start``.

        ``codes``: the rate at which they move, in steps between them; 0 leaves them. A loss that is not
        finite takes back what was learned since the best; it goes on at half the rates.
        """
        draw = torch.Generator().manual_seed(self.seed)
        best, kept, failures, since = self.score(), self.snapshot(), 0, 0
        adam, rates = self._optimizer(codes, 1.0)
        for done in range(stage.steps):
            spent = stage.done(done)
            if spent >= 1:
                break
            for group, rate in zip(adam.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * spent))
            chosen = torch.randperm(len(self.fit), generator=draw)[: self.batch].tolist()
            self.apply()
            _, losses = self._losses([self.fit[i] for i in chosen])
            total = torch.stack([lost.mean() for lost in losses]).sum()
            if not bool(torch.isfinite(total)):
                failures += 1
                self.restore(kept)
                if since == 0 or failures == _FAILURES:
                    break
                adam, rates = self._optimizer(codes, 0.5**failures)
                since = 0
                continue
            adam.zero_grad()
            total.backward()
            adam.step()
            since += 1
            if (done + 1) % _CHECK and done + 1 < stage.steps:
                continue
            now = self.score()
            if now.rank(start) < best.rank(start):
                best, kept = now, self.snapshot()
        stage.done(stage.steps)
        self.restore(kept)
        return best
