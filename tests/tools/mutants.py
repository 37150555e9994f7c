"""Packages damaged at random, from a seed: bytes, and fields of the specification's messages."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from milpasses.program.sources import read_source

_NUMBERS = (0, 1, 2, 3, 7, 63, 64, 255, 2**31 - 1, 2**32 + 1, 2**62, 2**63 - 1)
_TEXTS = ("", "x", "main", "const", "conv", "constexpr_lut_to_dense", "\0", "../../x", "é" * 40, "fp16")


def mutate(package: Path, copy: Path, seed: int) -> str:
    """Write a damaged copy of ``package``; what was done to it."""
    chosen = random.Random(seed)
    shutil.copytree(package, copy)
    if chosen.random() < 0.35:
        return _mutate_bytes(copy, chosen)
    return _mutate_spec(copy, chosen)


def _mutate_bytes(copy: Path, chosen: random.Random) -> str:
    path = chosen.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
    data = bytearray(path.read_bytes())
    what = chosen.choice(("flip", "flip", "header", "cut", "grow", "remove"))
    if what == "remove":
        path.unlink()
        return f"removed {path.name}"
    if what == "cut":
        del data[chosen.randrange(len(data)) :]
    elif what == "grow":
        data += chosen.randbytes(chosen.randrange(1, 200))
    else:
        for _ in range(chosen.randrange(1, 9)):
            data[chosen.randrange(min(len(data), 256) if what == "header" else len(data))] = chosen.randrange(
                256
            )
    path.write_bytes(data)
    return f"{what} {path.name}"


def _mutate_spec(copy: Path, chosen: random.Random) -> str:
    source = read_source(copy)
    assert source.spec_path is not None
    messages = list(_messages(source.spec))
    program = [one for one in messages if one.DESCRIPTOR.file.name == "MIL.proto"]
    done: list[str] = []
    for _ in range(chosen.randrange(1, 3)):
        message = chosen.choice(program if chosen.random() < 0.8 else messages)
        fields = [field for field, _ in message.ListFields()] or list(message.DESCRIPTOR.fields)
        field = chosen.choice(fields)
        done.append(f"{message.DESCRIPTOR.name}.{field.name} {_change(message, field, chosen)}")
    source.spec_path.write_bytes(source.spec.SerializeToString())
    return "; ".join(done)


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inner = [one for _, one in sorted(value.items()) if hasattr(one, "ListFields")]
        else:
            inner = list(value) if _repeated(field) else [value]
        for one in inner:
            yield from _messages(one)


def _change(message: Any, field: Any, chosen: random.Random) -> str:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key = chosen.choice(sorted(value)) if len(value) else None
        if key is None:
            return "empty"
        del value[key]
        return f"without {key}"
    if _repeated(field) and len(value):
        at = chosen.randrange(len(value))
        what = chosen.choice(("without", "twice", "reversed"))
        if what == "without":
            del value[at]
        elif what == "twice":
            value.append(value[at]) if field.message_type is None else value.add().CopyFrom(value[at])
        else:
            kept = list(value)[::-1] if field.message_type is None else [_copied(one) for one in value][::-1]
            del value[:]
            value.extend(kept)
        return what
    if _repeated(field) or field.message_type is not None or chosen.random() < 0.3:
        message.ClearField(field.name)
        return "cleared"
    return _set(message, field, chosen)


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _set(message: Any, field: Any, chosen: random.Random) -> str:
    made: dict[int, Callable[[], Any]] = {
        field.CPPTYPE_STRING: lambda: chosen.choice(_TEXTS),
        field.CPPTYPE_BOOL: lambda: not getattr(message, field.name),
        field.CPPTYPE_ENUM: lambda: chosen.choice(list(field.enum_type.values_by_number)),
        field.CPPTYPE_DOUBLE: lambda: chosen.choice((0.0, float("nan"), 1e300)),
        field.CPPTYPE_FLOAT: lambda: chosen.choice((0.0, float("nan"), 1e30)),
    }
    value = (
        made.get(field.cpp_type, lambda: chosen.choice(_NUMBERS))()
        if field.enum_type is None
        else (chosen.choice(list(field.enum_type.values_by_number)))
    )
    if field.type == field.TYPE_BYTES:
        value = chosen.randbytes(chosen.randrange(20))
    try:
        setattr(message, field.name, value)
    except (ValueError, TypeError):  # a number too large for the field
        setattr(message, field.name, 7)
    return f"= {value!r}"


def _repeated(field: Any) -> bool:
    """Whether a field is a list; protobuf's own name for that changed."""
    known = getattr(field, "is_repeated", None)
    return field.label == field.LABEL_REPEATED if known is None else bool(known)
