"""Small constants that are equal, kept once: strides, paddings and flags are most of a program's text."""

from collections.abc import Mapping
from typing import Any


def share_constants(program: Any) -> int:
    """Let the ops of an ML Program's protobuf share equal constants that are written in the program itself.

    The first of them stays, in the block or one around it; what is in the weight file is not touched.
    Returns how many constants went.
    """
    gone = 0
    for function in program.functions.values():
        for block in function.block_specializations.values():
            gone += _share(block, {}, {})
    return gone


def _share(block: Any, around: Mapping[bytes, str], renamed: Mapping[str, str]) -> int:
    """``around``: names of the constants that the blocks around hold, by content; ``renamed``: old to new."""
    seen, names = dict(around), dict(renamed)
    block.outputs[:] = [names.get(name, name) for name in block.outputs]
    outputs = set(block.outputs)
    kept: list[Any] = []
    gone = inside = 0
    for op in block.operations:
        if op.type == "const" and op.attributes["val"].WhichOneof("value") == "immediateValue":
            own = op.outputs[0].name
            content = op.attributes["val"].SerializeToString(deterministic=True)
            first = seen.setdefault(content, own)
            if first != own and own not in outputs:
                names[own] = first
                gone += 1
                continue
        for argument in op.inputs.values():
            for binding in argument.arguments:
                if binding.name in names:
                    binding.name = names[binding.name]
        inside += sum(_share(inner, seen, names) for inner in op.blocks)
        kept.append(op)
    if gone:
        copies = [type(op).FromString(op.SerializeToString()) for op in kept]
        del block.operations[:]
        block.operations.extend(copies)
    return gone + inside
