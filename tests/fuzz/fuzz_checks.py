"""What must hold of every compression, told by other means than milpasses' own where there are any.

coremltools reads the saved package and decodes its ops; the errors, bytes and values that the report states
are computed again from that.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.models import MLModel
from models import materialize

from milpasses.interpreter import Interpreter
from milpasses.program.blobfile import BlobReader
from milpasses.program.proto import stored_bytes
from milpasses.program.saved import walk

Array = np.ndarray
Use = tuple[str, str, str, int]  # function, op, parameter, place in a list


class Find(AssertionError):  # noqa: N818 (what a fuzzer is for)
    """Something that must hold does not."""


def require(holds: Any, what: str, *details: Any) -> None:
    """Raise ``Find`` with ``what`` and its details unless it holds."""
    if not holds:
        raise Find(": ".join([what, *map(str, details)]))


def same(one: Array, other: Array) -> bool:
    """The same type, shape and bits."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def read_program(package: Path | str) -> Any:
    """The program of a saved package, as coremltools' own frontend reads it."""
    model = MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    return load(spec, spec.specificationVersion, str(model.weights_dir or ""))


def _operations(block: Any) -> Iterator[Any]:
    for op in block.operations:
        yield op
        for nested in op.blocks:
            yield from _operations(nested)


def _is_weight(op: Any) -> bool:
    return op.op_type == "const" or op.op_type.startswith("constexpr_")


def _value(variable: Any, decoded: dict[Any, Any]) -> Any:
    """The value of a constant or of a compressed weight; None of what is computed."""
    if variable.op is None or not _is_weight(variable.op):
        return None
    if variable not in decoded:
        op = variable.op
        decoded[variable] = variable.val if op.op_type == "const" else np.asarray(materialize(op))
    return decoded[variable]


def uses_of(program: Any) -> dict[Use, tuple[str, Any]]:
    """The name and value of each constant at each of its uses; the order is the program's."""
    decoded: dict[Any, Any] = {}
    uses: dict[Use, tuple[str, Any]] = {}
    for name, function in sorted(program.functions.items()):
        for op in _operations(function):
            if _is_weight(op):
                continue
            for param, bound in sorted(op.inputs.items()):
                many = bound if isinstance(bound, list | tuple) else [bound]
                for place, variable in enumerate(many):
                    if variable is not None:
                        value = _value(variable, decoded)
                        uses[name, op.name, param, place] = (str(variable.name), value)
    return uses


def skeleton(program: Any) -> list[tuple[str, str, str]]:
    """Every op but constants and compressed weights: compression must leave these as they are."""
    return [
        (name, op.op_type, op.name)
        for name, function in sorted(program.functions.items())
        for op in _operations(function)
        if not _is_weight(op)
    ]


def blobs(package: Path | str) -> Counter[tuple[str, bytes]]:
    """Type and bytes of each blob of the weight files of a package, in no order."""
    from coremltools.proto import Model_pb2

    found: Counter[tuple[str, bytes]] = Counter()
    for path in sorted(Path(package).rglob("weight.bin")):
        reader = BlobReader(path)
        spec = Model_pb2.Model()
        spec.ParseFromString((path.parent.parent / "model.mlmodel").read_bytes())
        offsets = {
            value.blobFileValue.offset for value, _ in _stored(spec) if value.HasField("blobFileValue")
        }
        for offset in offsets:
            name, raw, _ = reader.raw(offset)
            found[name, raw.tobytes()] += 1
    return found


def _stored(spec: Any) -> Iterator[tuple[Any, bool]]:
    """Each stored value of a specification, and whether it is a part of a compressed weight."""
    for function in spec.mlProgram.functions.values():
        for op in walk(function.block_specializations[function.opset]):
            if op.type == "const":
                yield op.attributes["val"], False
            elif op.type.startswith("constexpr_"):
                for param, value in op.attributes.items():
                    if param not in ("name", "shape", "axis", "output_dtype"):
                        yield value, True
                for param, argument in op.inputs.items():
                    for binding in argument.arguments:
                        if binding.WhichOneof("binding") == "value" and param != "vector_axis":
                            yield binding.value, True


def stored_size(package: Path | str) -> int:
    """Bytes of all weights of a package: blobs once each, and what compressed weights have in the text."""
    path = next(Path(package).rglob("model.mlmodel"))
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString(path.read_bytes())
    in_file: dict[int, int] = {}
    in_text = 0
    for value, compressed in _stored(spec):
        if value.HasField("blobFileValue"):
            offset = value.blobFileValue.offset
            in_file[offset] = BlobReader(path.parent / "weights" / "weight.bin").raw(offset)[1].size
        elif compressed:
            in_text += stored_bytes(value)
    return sum(in_file.values()) + in_text


def check_records(report: Any, before: Any, after: Any, tolerant: bool = False) -> None:
    """The report against the two programs: errors at every use; what is not compressed has the same bits.

    ``tolerant``: the codes were chosen by other than the weight's own error, which may be larger than zeros'.
    """
    old, new = uses_of(before), uses_of(after)
    require(skeleton(before) == skeleton(after), "other ops than before")
    require(list(old) == list(new), "other uses than before", set(old) ^ set(new))
    compressed: dict[tuple[str, str], Any] = {}
    for record in report:
        require(
            record.bytes_after <= record.bytes_before or record.status == "compressed", "grew", record.name
        )
        for consumer in record.consumers if record.status == "compressed" else ():
            op, _, param = re.fullmatch(r"(.*):(\w+)\.(\w+)", consumer).groups()  # type: ignore[union-attr]
            compressed[op, param] = record
    reached = set()
    for (function, op, param, place), (_, value) in old.items():
        changed = new[function, op, param, place][1]
        if value is None:
            require(changed is None, "a value where there was none", op, param)
            continue
        record = compressed.get((op, param))
        if record is None or np.shape(value) != record.shape:
            is_same = same(np.asarray(value), np.asarray(changed))
            require(is_same, "a weight that the report does not call compressed has changed", op, param)
            continue
        reached.add(id(record))
        _check_record(record, np.asarray(value), np.asarray(changed), tolerant)
    left = [record.name for record in report if record.status == "compressed" and id(record) not in reached]
    require(not left, "compressed, but no op has it", left)


def _check_record(record: Any, value: Array, changed: Array, tolerant: bool) -> None:
    name, form = record.name, record.form
    require(
        changed.dtype == value.dtype and changed.shape == value.shape, "another type or shape", name, form
    )
    require(np.isfinite(changed).all(), "not finite any more", name, form, record.scheme)
    wide, close = value.astype(np.float64), changed.astype(np.float64)
    largest = float(np.abs(wide - close).max(initial=0))
    signal, noise = float((wide**2).sum()), float(((wide - close) ** 2).sum())
    require(
        math.isclose(largest, record.max_error, rel_tol=1e-6),
        "max_error is not true", name, form, record.scheme, f"{record.max_error} for {largest}",
    )  # fmt: skip
    sqnr = math.inf if noise == 0 else -math.inf if signal == 0 else 10 * math.log10(signal / noise)
    require(
        math.isclose(sqnr, record.sqnr_db, rel_tol=1e-6, abs_tol=1e-4),
        "sqnr_db is not true", name, form, record.scheme, f"{record.sqnr_db} for {sqnr}",
    )  # fmt: skip
    tolerant = tolerant or "mode=uniform" in record.scheme  # its tables are what coremltools says they are
    require(tolerant or sqnr > -1e-3, "worse than zeros", name, form, record.scheme, sqnr)


def check_bytes(report: Any, small: Path | str) -> None:
    """What the report says is stored, against the bytes in the package."""
    stored = stored_size(small)
    require(stored == report.bytes_after, "the bytes are not true", f"{report.bytes_after} for {stored}")


def check_outputs(
    small: Path | str, dense_again: Path | str, sample: dict[str, Array], function: str | None = None
) -> None:
    """The interpreter gives the same bits with compressed weights and with the values they decode to."""
    with np.errstate(all="ignore"):
        first = Interpreter(str(small), function, backend="numpy").run(sample)
        second = Interpreter(str(dense_again), function, backend="numpy").run(sample)
    require(list(first) == list(second), "other outputs", list(first), list(second))
    for name, value in first.items():
        require(same(np.asarray(value), np.asarray(second[name])), "the outputs differ", name)


def check_decoded(small: Any, dense_again: Any) -> None:
    """Decompressed values are those that coremltools' ops decode to."""
    decoded, dense = uses_of(small), uses_of(dense_again)
    require(list(decoded) == list(dense), "decompress changes what ops take")
    for use, (_, value) in decoded.items():
        if value is not None:
            require(same(np.asarray(value), np.asarray(dense[use][1])), "decompress gives other values", use)
