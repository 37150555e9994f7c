"""Names of variables, each made once in a function.

A block inside an op (a branch, the body of a loop) may use a name of a block around or beside it for a value
of its own: coremltools writes such programs where ``common::dedup_op_and_var_names`` does not run last. Its
own reader, and whoever asks for a weight by its name, then takes one value for the other.
"""

from collections.abc import Iterator
from typing import Any

Scope = dict[str, str]  # a name as it is -> the name that it gets


def with_unique_names(spec: Any) -> Any:
    """``spec`` (``Model_pb2.Model``), or a copy in which no function of an ML Program makes a name twice.

    The outputs of functions keep their names. Names of ops stay: they need not differ. The blocks of one op
    may share names of their inputs, as the condition and the body of a loop do: these are its variables.
    """
    if not any(_repeats(block) for _, block in _bodies(spec)):
        return spec
    renamed = type(spec)()
    renamed.CopyFrom(spec)
    for function, block in _bodies(renamed):
        given = {value.name for value in function.inputs}
        _Names({*_made(block), *given}, {*block.outputs, *given}).rename(block, [], {}, True)
    return renamed


def _bodies(spec: Any) -> list[tuple[Any, Any]]:
    """Each function, and its block for the opset that it is for."""
    functions = spec.mlProgram.functions.values()
    return [(f, f.block_specializations[f.opset]) for f in functions if f.opset in f.block_specializations]


def _made(block: Any) -> Iterator[str]:
    """Every name that is made in a block, those of the blocks inside it included."""
    for op in block.operations:
        yield from {value.name: None for nested in op.blocks for value in nested.inputs}
        for nested in op.blocks:
            yield from _made(nested)
        yield from (output.name for output in op.outputs)


def _repeats(block: Any) -> bool:
    names = list(_made(block))
    return len(set(names)) < len(names)


class _Names:
    """Gives out names: ``taken`` are in the function somewhere, ``used`` are made already or must stay."""

    def __init__(self, taken: set[str], used: set[str]) -> None:
        self.taken, self.used = taken, used

    def rename(self, block: Any, scopes: list[Scope], variables: Scope, outermost: bool) -> None:
        """Rename what ``block`` makes where that is there already, and where it is taken.

        ``variables``: the inputs of blocks beside it in the same op, which it may share.
        """
        scope: Scope = {}
        scopes = [*scopes, scope]
        kept = set(block.outputs) if outermost else set[str]()
        for value in block.inputs:
            if value.name not in variables:
                variables[value.name] = self._define(value.name, scope, kept)
            scope[value.name] = variables[value.name]
            value.name = scope[value.name]
        for op in block.operations:
            for argument in op.inputs.values():
                for binding in argument.arguments:
                    if binding.WhichOneof("binding") == "name":
                        binding.name = _found(binding.name, scopes)
            shared: Scope = {}
            for nested in op.blocks:
                self.rename(nested, scopes, shared, False)
            for output in op.outputs:
                output.name = self._define(output.name, scope, kept)
        block.outputs[:] = [_found(name, scopes) for name in block.outputs]

    def _define(self, name: str, scope: Scope, kept: set[str]) -> str:
        candidate, number = name, 0
        if name not in kept:
            while candidate in self.used or (candidate != name and candidate in self.taken):
                candidate, number = f"{name}_{number}", number + 1
        self.used.add(candidate)
        scope[name] = candidate
        return candidate


def _found(name: str, scopes: list[Scope]) -> str:
    """What ``name`` means in the innermost of ``scopes``; an input of the function means itself."""
    return next((scope[name] for scope in reversed(scopes) if name in scope), name)
