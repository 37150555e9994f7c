"""Keeps the report in the model that ``ct.convert`` saves.

A pass sees only the program; the specification is made later by the backend that coremltools looks up in its
``ConverterRegistry``. A subclass of that backend is registered in its place, which adds the report of a
program that has one, and does nothing else.
"""

from typing import Any

from coremltools.converters.mil.converter import ConverterRegistry

from milpasses.report import METADATA_KEY, Report

_ATTRIBUTE = "_milpasses_report"


def remember(program: Any, report: Report) -> None:
    """Let the specification of ``program`` carry ``report``."""
    setattr(program, _ATTRIBUTE, report)


def register() -> None:
    """Put the reporting backend in the registry, once."""
    current: Any = ConverterRegistry.backends["mlprogram"]
    if getattr(current, "reports_milpasses", False):
        return

    class ReportingBackend(current):
        name = "mlprogram"
        alias_names: list[str] = []  # noqa: RUF012 (coremltools' own attribute)
        reports_milpasses = True

        def __call__(self, program: Any, *args: Any, **kwargs: Any) -> Any:
            spec = super().__call__(program, *args, **kwargs)
            report = getattr(program, _ATTRIBUTE, None)
            if report is not None:
                spec.description.metadata.userDefined[METADATA_KEY] = report.to_metadata()
            return spec

    ConverterRegistry.backend(ReportingBackend)
