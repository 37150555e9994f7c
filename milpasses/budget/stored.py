"""Bytes of the weight file: each blob has a record of 64 bytes, and its data are padded to 64."""

from collections.abc import Iterable
from typing import Any

from milpasses.encoding.lowering import OpSpec, Ref
from milpasses.encoding.storage import SMALLEST_IN_FILE, packed_bytes
from milpasses.program.saved import SavedProgram, walk
from milpasses.program.weights import Site

FILE_HEADER = 64  # bytes of a weight file itself
Blob = tuple[str, int]  # file, offset of the record


def blob_bytes(nbytes: int) -> int:
    """What ``nbytes`` of data take in a weight file."""
    return 64 + -(-nbytes // 64) * 64


def specs_bytes(specs: Iterable[OpSpec]) -> int:
    """What the constants of new ops take: in the weight file, or, where they are few, in the program."""
    stored = {id(s.values): s for spec in specs for s in spec.inputs.values() if not isinstance(s, Ref)}
    total = 0
    for source in stored.values():
        if source.dtype == "str":
            continue
        nbytes = packed_bytes(source.values.size, source.dtype)
        total += blob_bytes(nbytes) if source.values.size >= SMALLEST_IN_FILE else nbytes
    return total


def program_blobs(program: SavedProgram) -> dict[Blob, int]:
    """Every blob that the program uses, with its bytes."""
    blobs: dict[Blob, int] = {}
    for function in program.functions:
        for op in walk(function.block):
            blobs |= _blobs(program, op)
    return blobs


def site_blobs(program: SavedProgram, site: Site) -> dict[Blob, int]:
    """The blobs that a rewritten site no longer uses, with their bytes."""
    blobs: dict[Blob, int] = {}
    functions = {function.name: function for function in program.functions}
    for name, variable in site.places:
        function = functions[name]
        op = function.producers[variable]
        for part in [op] if op.type == "const" else program.chain(function, op):
            blobs |= _blobs(program, part)
    return blobs


def _blobs(program: SavedProgram, op: Any) -> dict[Blob, int]:
    bound = [binding.value for argument in op.inputs.values() for binding in argument.arguments]
    blobs: dict[Blob, int] = {}
    for value in (*op.attributes.values(), *bound):
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            raw = program.package.reader(blob.fileName).raw(blob.offset)[1]
            blobs[blob.fileName, blob.offset] = blob_bytes(raw.size)
    return blobs
