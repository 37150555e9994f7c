"""Damage to sound models: bytes, fields of specifications, records of weight files, manifests, files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

Rng = np.random.Generator

NUMBERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**40, 10**6, 63, 64, 65)
TEXTS = (
    "",
    "x",
    "../../outside/canary",
    "/etc/hostname",
    "a\0b",
    "é" * 300,
    "main",
    "..",
    "@model_path/../../../o",
    "%s{}",
)


def _damage_bytes(rng: Rng, path: Path) -> str:
    data = bytearray(path.read_bytes())
    way = str(rng.choice(["flip", "cut", "zeros", "insert", "grow", "empty"]))
    at = int(rng.integers(max(len(data), 1)))
    if way == "flip" and data:
        for place in rng.integers(len(data), size=int(rng.choice([1, 1, 2, 8]))):
            data[place] ^= 1 << int(rng.integers(8))
    elif way == "cut":
        del data[at:]
    elif way == "zeros":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif way == "insert":
        data[at:at] = rng.integers(256, size=int(rng.integers(1, 20))).astype(np.uint8).tobytes()
    elif way == "grow":
        data += bytes(int(rng.integers(1, 200)))
    else:
        data.clear()
    path.write_bytes(bytes(data))
    return f"{path.name}: bytes {way} at {at}"


def _messages(message: Any, depth: int = 0) -> list[Any]:
    """A message and those inside it, of repeated ones and maps the first few."""
    found = [message]
    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE or depth > 14:
            continue
        if field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
            inner = list(value.values()) if hasattr(value, "values") else list(value)
            inner = [part for part in inner if hasattr(part, "ListFields")]
        else:
            inner = [value]
        for part in inner[:60]:
            found += _messages(part, depth + 1)
    return found


def _damage_field(rng: Rng, path: Path) -> str:
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString(path.read_bytes())
    said = []
    for _ in range(int(rng.choice([1, 1, 2]))):
        messages = [message for message in _messages(spec) if message.ListFields()]
        if messages:
            said.append(_change_field(rng, messages[int(rng.integers(len(messages)))]))
    path.write_bytes(spec.SerializeToString())
    return f"{path.name}: {'; '.join(said)}"


def _change_field(rng: Rng, message: Any) -> str:
    field, value = message.ListFields()[int(rng.integers(len(message.ListFields())))]
    name = f"{message.DESCRIPTOR.name}.{field.name}"
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        keys = list(value)
        key = keys[int(rng.integers(len(keys)))]
        del value[key]
        return f"{name}[{key}] deleted"
    if not isinstance(value, int | float | str | bytes | bool) and hasattr(value, "__len__"):
        place = int(rng.integers(len(value)))
        way = str(rng.choice(["delete", "repeat", "swap"]))
        if way == "delete":
            del value[place]
        elif way == "repeat" and hasattr(value, "MergeFrom"):
            value.MergeFrom([value[place]])
        elif len(value) > 1:
            items = list(value)
            items[0], items[place] = items[place], items[0]
            copies = [item if not hasattr(item, "SerializeToString") else _copied(item) for item in items]
            del value[:]
            value.extend(copies)
        return f"{name}[{place}] {way}"
    if hasattr(value, "ListFields") or rng.random() < 0.3:
        message.ClearField(field.name)
        return f"{name} cleared"
    choices: Any = NUMBERS if isinstance(value, int | float) else TEXTS
    new = choices[int(rng.integers(len(choices)))]
    if isinstance(value, bytes):
        new = value[: len(value) // 2]
    try:
        setattr(message, field.name, new)
    except (ValueError, TypeError):  # out of the type's range
        message.ClearField(field.name)
    return f"{name} = {new!r}"[:100]


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _damage_record(rng: Rng, path: Path) -> str:
    """A field of the header, or of a blob's record, of a weight file."""
    data = bytearray(path.read_bytes())
    records = [
        at for at in range(64, max(len(data) - 63, 65), 64) if data[at : at + 4] == b"\xef\xbe\xad\xde"
    ]
    start = int(rng.choice([0, *records]))
    field, size = ((0, 4), (4, 4), (8, 8), (16, 8), (24, 8))[int(rng.integers(5))]
    value = int(rng.choice(NUMBERS[:10])) % (1 << 8 * size)
    data[start + field : start + field + size] = value.to_bytes(size, "little")
    path.write_bytes(bytes(data))
    return f"{path.name}: {value} at {start}+{field}"


def _damage_manifest(rng: Rng, path: Path) -> str:
    manifest = json.loads(path.read_text())
    entries = manifest["itemInfoEntries"]
    key = str(rng.choice(list(entries)))
    odd: Any = [*TEXTS, 5, None, [], {}, "com.apple.CoreML", "com.apple.CoreML/weights", "../Manifest.json"]
    value = odd[int(rng.integers(len(odd)))]
    way = str(rng.choice(["path", "entry", "root", "delete", "text", "deep", "list"]))
    if way == "path":
        entries[key]["path"] = value
    elif way == "entry":
        entries[key] = value
    elif way == "root":
        manifest["rootModelIdentifier"] = value
    elif way == "delete":
        del manifest[str(rng.choice(list(manifest)))]
    text = {"text": str(value), "deep": "[" * 100_000, "list": "[1, 2]"}.get(way, json.dumps(manifest))
    path.write_bytes(text.encode())
    return f"{path.name}: {way} {value!r}"[:100]


def _damage_files(rng: Rng, package: Path) -> str:
    paths = sorted(package.rglob("*"))
    path = paths[int(rng.integers(len(paths)))]
    way = str(rng.choice(["remove", "folder", "outside", "loop", "hidden"]))
    if way == "hidden":
        (package / "Data" / ".odd\nname").write_bytes(b"x")
        return "files: an odd name"
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "outside":
        path.symlink_to(package.parent.parent / "outside" / "canary")
    elif way == "loop":
        path.symlink_to(package)
    return f"files: {path.relative_to(package)} {way}"


def _damage_kept(rng: Rng, folder: Path) -> str:
    """A value of what trace kept, or bytes of one of its files."""
    path = folder / str(rng.choice(["program.json", "program.json", "replay.json", "constants.npz"]))
    if path.suffix == ".npz" or rng.random() < 0.2:
        return _damage_bytes(rng, path)
    content = json.loads(path.read_text())
    places = _places(content)
    owner, key = places[int(rng.integers(len(places)))]
    value: Any = (*NUMBERS, *TEXTS, None, [], {}, [1], {"x": 1})[
        int(rng.integers(len(NUMBERS) + len(TEXTS) + 5))
    ]
    if rng.random() < 0.3:
        del owner[key]
        value = "deleted"
    else:
        owner[key] = value
    path.write_text(json.dumps(content))
    return f"{path.name}: {key} {value!r}"[:100]


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Every value inside ``content``, as what holds it and its key there."""
    keys: Any = content if isinstance(content, dict) else range(len(content))
    found: list[tuple[Any, Any]] = []
    for key in keys:
        found.append((content, key))
        if isinstance(content[key], dict | list):
            found += _places(content[key])
    return found


def make_mutant(rng: Rng, sound: Path, path: Path) -> str:
    """Copy the model ``sound`` to ``path`` and damage it; says how."""
    if (sound / "replay.json").exists():
        shutil.copytree(sound, path)
        return _damage_kept(rng, path)
    if sound.is_file():
        shutil.copyfile(sound, path)
        return (_damage_field if rng.random() < 0.6 else _damage_bytes)(rng, path)
    shutil.copytree(sound, path)
    specs, weights = sorted(path.rglob("*.mlmodel")), sorted(path.rglob("*.bin"))
    way = rng.random()
    if way < 0.5:
        return _damage_field(rng, specs[0])
    if way < 0.65:
        return _damage_bytes(rng, specs[0])
    if way < 0.75 and weights:
        return _damage_record(rng, weights[0])
    if way < 0.8 and weights:
        return _damage_bytes(rng, weights[0])
    if way < 0.92:
        return _damage_manifest(rng, path / "Manifest.json")
    return _damage_files(rng, path)
