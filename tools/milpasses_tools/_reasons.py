"""Why weights were not compressed, a line for each reason: by the codes of their refusals."""

import re
from collections.abc import Sequence
from string import Formatter
from typing import Any

from milpasses.errors import REASONS, Refusal
from milpasses.report import Record

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def by_reason(records: Sequence[Record]) -> list[str]:
    """A line for each reason; reasons that differ in their numbers alone are one, with the numbers' range."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
    return [
        f"{group[0].status} {len(group):,} ({sum(record.bytes_after for record in group):,} bytes): "
        + _words(group)
        for group in groups.values()
    ]


def _coded(record: Record) -> Refusal | None:
    """The refusal, where its details tell it from others; one that was stated in words is all text."""
    refusal = record.refusal
    return refusal if refusal is not None and refusal.code in REASONS.keys() - {"stated"} else None


def _key(record: Record) -> tuple[str, ...]:
    refusal = _coded(record)
    if refusal is None:
        return record.status, "", _NUMBER.sub("#", record.reason)
    texts = (f"{name}={value}" for name, value in refusal.details.items() if not _varies(name, value))
    return record.status, refusal.code, *texts


def _varies(name: str, value: Any) -> bool:
    """Whether weights of one group may differ in this detail: a number, or what only names the weight."""
    return name == "name" or (isinstance(value, int | float) and not isinstance(value, bool))


def _words(group: Sequence[Record]) -> str:
    refusals = [refusal for record in group if (refusal := _coded(record)) is not None]
    if not refusals:
        return merge_numbers([record.reason for record in group])
    text = ""
    for literal, field, spec, _ in Formatter().parse(REASONS[refusals[0].code]):
        text += literal
        if field is not None:
            text += _merged([refusal.details[field] for refusal in refusals], spec or "")
    return text


def _merged(values: Sequence[Any], spec: str) -> str:
    """What several refusals have in one place: a value, the range of numbers, or a text and how many more."""
    distinct = list({repr(value): value for value in values}.values())
    if len(distinct) == 1:
        return format(distinct[0], spec)
    if isinstance(distinct[0], str):
        return f"{distinct[0]} and {len(distinct) - 1:,} more"
    return f"{min(distinct):{spec}}..{max(distinct):{spec}}"


def merge_numbers(texts: Sequence[str]) -> str:
    """One text for several that differ in their numbers alone: each number that varies becomes a range."""
    columns = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    merged = iter([_range(set(column)) for column in columns])
    return _NUMBER.sub(lambda _: next(merged), texts[0])


def _range(numbers: set[str]) -> str:
    ordered = sorted(numbers, key=lambda number: float(number.replace(",", "")))
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]}..{ordered[-1]}"
