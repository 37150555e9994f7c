"""Whole choices, measured: what the model computes with each weight as chosen, which the table predicts."""

from typing import Any

import attrs

from milpasses.budget.candidates import SensitivityBuilder
from milpasses.budget.probe import Probe
from milpasses.budget.table import Option, Sensitivity


@attrs.define(eq=False)
class MeasuredChoices:
    """Measures choices by running the model with every weight as it would be; each choice once."""

    builder: SensitivityBuilder
    probe: Probe
    table: Sensitivity
    _known: dict[tuple[str, ...], float] = attrs.field(factory=dict)

    def output_error(self, chosen: tuple[Option, ...]) -> float:
        """The measured output error with an option for each weight of the table, in its order."""
        key = tuple(option.scheme for option in chosen)
        if key not in self._known:
            self._known[key] = self.probe.output_error(self._values(chosen))
        return self._known[key]

    def _values(self, chosen: tuple[Option, ...]) -> dict[str, Any]:
        """The decoded weights by variable; one copy of them is in memory."""
        waiting: dict[tuple[str, tuple[int, ...]], list[Option]] = {}
        for weight, option in zip(self.table, chosen, strict=True):
            waiting.setdefault((weight.name, weight.shape), []).append(option)
        values: dict[str, Any] = {}
        for index, site in enumerate(self.builder.program.sites()):
            options = waiting.get((site.weight.name, site.weight.shape))
            variables = self.builder.variables(site)
            option = options.pop(0) if options else None
            if option is None or option.scheme == "keep" or not variables:
                continue
            encoding = self.builder.encoding(index, site, option.scheme)
            if encoding is not None:
                values |= dict.fromkeys(variables, encoding.decode())
            self.builder.program.package.release()
        return values
