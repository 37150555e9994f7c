"""Keeps the report in the model that ``ct.convert`` saves.

A pass sees only the program; the specification is made later by the exporter that coremltools looks up in its
registry of converters. A subclass of that exporter is registered in its place, which adds the report of a
program that has one, and does nothing else.
"""

from typing import Any

from milpasses import _coremltools as host
from milpasses.report import METADATA_KEY, Report

_ATTRIBUTE = "_milpasses_report"


def remember(program: Any, report: Report) -> None:
    """Let the specification of ``program`` carry ``report``."""
    setattr(program, _ATTRIBUTE, report)


def register() -> None:
    """Put the reporting exporter in the registry, once."""
    host.replace_backend("mlprogram", _reporting)


def _reporting(current: Any) -> Any:
    if getattr(current, "reports_milpasses", False):
        return current

    class ReportingBackend(current):
        reports_milpasses = True

        def __call__(self, program: Any, *args: Any, **kwargs: Any) -> Any:
            spec = super().__call__(program, *args, **kwargs)
            report = getattr(program, _ATTRIBUTE, None)
            if report is not None:
                spec.description.metadata.userDefined[METADATA_KEY] = report.to_metadata()
            return spec

    return ReportingBackend
