"""A saved ML Program written again with some of its weights replaced."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from milpasses import _coremltools as host
from milpasses.encoding.lowering import OpSpec, Ref, base_name
from milpasses.program.blobfile import BLOB_TYPES, BlobWriter
from milpasses.program.inside import path_inside
from milpasses.program.opset import Opset
from milpasses.program.package import MODEL_PATH, Package, new_message
from milpasses.program.proto import make_type, write_value
from milpasses.program.protocol import Rewrite, Runner
from milpasses.program.saved import SavedFunction, SavedProgram, op_name
from milpasses.program.weights import Place, Site

WEIGHT_FILE = f"{MODEL_PATH}weights/weight.bin"


@attrs.define(eq=False)
class WeightFiles:
    """The weight files of a package that is being written under ``folder``.

    ``joined``: every blob goes into ``WEIGHT_FILE``, which the parts of a pipeline share, whatever file it
    was in, and equal ones once. Constants that shared storage still do.
    """

    folder: Path
    joined: bool = False
    _writers: dict[str, BlobWriter] = attrs.field(factory=dict)
    _moved: dict[tuple[Path, int], tuple[str, int]] = attrs.field(factory=dict)

    def writer(self, file_name: str) -> BlobWriter:
        """What appends to the file that the specification calls ``file_name``."""
        if file_name not in self._writers:
            name = file_name.removeprefix(MODEL_PATH)
            path = path_inside(self.folder, name, str(self.folder), "the weight file")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writers[file_name] = BlobWriter(path, once=self.joined)
        return self._writers[file_name]

    def move(self, package: Package, blob: Any) -> None:
        """Copy what ``blob`` (a MIL ``BlobFileValue``) of ``package`` points at, and point it at the copy."""
        reader = package.reader(blob.fileName)
        key = (reader.path, blob.offset)
        if key not in self._moved:
            dtype, raw, padding = reader.raw(blob.offset)
            assert dtype in BLOB_TYPES
            file_name = WEIGHT_FILE if self.joined else blob.fileName
            self._moved[key] = (file_name, self.writer(file_name).write_raw(raw, dtype, padding))
        blob.fileName, blob.offset = self._moved[key]

    def finish(self) -> None:
        """Make every file whole."""
        for writer in self._writers.values():
            writer.finish()

    def close(self) -> None:
        """Close every file, finished or not."""
        for writer in self._writers.values():
            writer.close()


@contextmanager
def weight_files(folder: Path, joined: bool = False) -> Generator[WeightFiles]:
    """``WeightFiles`` that are finished at the end, unless an error is raised."""
    files = WeightFiles(folder, joined)
    try:
        yield files
        files.finish()
    finally:
        files.close()


@attrs.define(eq=False)
class SavedCopy:
    """``program`` as it will be written: a ``WeightProgram`` whose ``replace`` writes the weight files.

    ``spec``: the specification that goes with them, once they are written. ``files``: weight files that
    other programs are written to as well; without, ``replace`` makes its own under ``folder``.
    """

    program: SavedProgram
    folder: Path
    spec: Any = None
    files: WeightFiles | None = None

    @property
    def target(self) -> Opset:
        """As ``SavedProgram``'s."""
        return self.program.target

    def sites(self) -> list[Site]:
        """As ``SavedProgram``'s."""
        return self.program.sites()

    def runner(self, function: str | None = None) -> Runner:
        """What runs the program as it was."""
        return self.program.runner(function)

    def replace(self, sites: Sequence[Site], rewrite: Rewrite) -> int:
        """Write the weight files, with what ``rewrite`` gives in the place of each of ``sites``."""
        if self.files is not None:
            return self._write(self.files, sites, rewrite)
        with weight_files(self.folder) as files:
            return self._write(files, sites, rewrite)

    def _write(self, files: WeightFiles, sites: Sequence[Site], rewrite: Rewrite) -> int:
        writer = ProgramWriter(self.program, files, rewrite, sites)
        self.spec = writer.write()
        return writer.replaced


@attrs.define(eq=False)
class ProgramWriter:
    """One pass over the program in order: weights are encoded and written as they are met.

    ``rewrite(site)`` gives the ops that take a site's place, or None to leave it; it is called once for
    each of ``sites``. Weights go to ``files``; ``replaced`` counts the sites that changed.
    """

    program: SavedProgram
    files: WeightFiles
    rewrite: Rewrite
    sites: Sequence[Site]
    replaced: int = 0
    _by_place: dict[Place, Site] = attrs.field(factory=dict)
    _answers: dict[Site, list[tuple[OpSpec, dict[str, Any]]] | None] = attrs.field(factory=dict)
    _renamed: dict[Place, str] = attrs.field(factory=dict)
    _given: dict[str, set[str]] = attrs.field(factory=dict)  # names of new variables, by function

    def write(self) -> Any:
        """Write the weights and return the specification (``Model_pb2.Model``)."""
        for site in self.sites:
            self._by_place.update(dict.fromkeys(site.places, site))
        spec = new_message("Model_pb2", "Model")
        spec.CopyFrom(self.program.package.spec)
        for function in self.program.functions:
            message = spec.mlProgram.functions[function.name]
            block = message.block_specializations[message.opset]
            self._rewrite(function, block)
        return spec

    def _rewrite(self, function: SavedFunction, block: Any) -> None:
        rewritten: list[Any] = []
        changed = False
        for op in block.operations:
            for nested in op.blocks:
                self._rewrite(function, nested)
            made = op.outputs[0].name if op.outputs else ""
            site = self._by_place.get((function.name, made))
            answer = self._answer(site) if site is not None else None
            if answer is not None and site is not None:
                rewritten.extend(self._emit(function, op, answer))
                changed = True
            elif self._feeds_rewritten(function, op):
                changed = True
            else:
                self._keep(function, op)
                rewritten.append(op)
        if changed:
            del block.operations[:]
            block.operations.extend(rewritten)

    def _answer(self, site: Site) -> list[tuple[OpSpec, dict[str, Any]]] | None:
        """The site's new ops with their constants already in the weight file; asked for once."""
        if site not in self._answers:
            specs = self.rewrite(site)
            self._answers[site] = None if specs is None else self._store(specs)
            self.replaced += specs is not None
            self.program.release()
        return self._answers[site]

    def _store(self, specs: list[OpSpec]) -> list[tuple[OpSpec, dict[str, Any]]]:
        writer = self.files.writer(WEIGHT_FILE)
        stored: list[tuple[OpSpec, dict[str, Any]]] = []
        known: dict[int, Any] = {}
        for spec in specs:
            values: dict[str, Any] = {}
            for param, source in sorted(spec.inputs.items()):
                if not isinstance(source, Ref):
                    if id(source.values) not in known:
                        known[id(source.values)] = write_value(
                            source.values, source.dtype, writer, WEIGHT_FILE
                        )
                    values[param] = known[id(source.values)]
            references = {param: source for param, source in spec.inputs.items() if isinstance(source, Ref)}
            stored.append((attrs.evolve(spec, inputs=dict(references)), values))
        return stored

    def _emit(
        self, function: SavedFunction, old: Any, answer: list[tuple[OpSpec, dict[str, Any]]]
    ) -> list[Any]:
        base = base_name(answer[-1][0].name)
        here = base_name(op_name(old))
        typed = function.target.generation.typed
        made: list[list[str]] = []
        messages: list[Any] = []
        for spec, values in answer:
            name = self._free_name(function, here + spec.name[len(base) :], old)
            op = new_message("MIL_pb2", "Operation", type=spec.op_type)
            op.attributes["name"].CopyFrom(host.scalar_value(name))
            for param, value in values.items():
                if typed and spec.op_type != "const":
                    op.inputs[param].arguments.add().value.CopyFrom(value)
                else:
                    op.attributes[param].CopyFrom(value)
            names = [name] if len(spec.outputs) == 1 else [f"{name}_{i}" for i in range(len(spec.outputs))]
            for param, source in spec.inputs.items():
                assert isinstance(source, Ref)
                op.inputs[param].arguments.add().name = made[source.op][source.output]
            for variable, (shape, dtype) in zip(names, spec.outputs, strict=True):
                output = op.outputs.add(name=variable)
                output.type.CopyFrom(make_type(dtype, shape))
            made.append(names)
            messages.append(op)
        self._renamed[(function.name, old.outputs[0].name)] = made[-1][0]
        return messages

    def _free_name(self, function: SavedFunction, name: str, old: Any) -> str:
        """``name``, or with a number where another variable has it, or was given it."""
        own = {output.name for part in self.program.chain(function, old) for output in part.outputs}
        candidate, number = name, 0
        given = self._given.setdefault(function.name, set())
        while candidate in given or (candidate in function.producers and candidate not in own):
            candidate, number = f"{name}_{number}", number + 1
        given.add(candidate)
        return candidate

    def _feeds_rewritten(self, function: SavedFunction, op: Any) -> bool:
        """``op`` is an inner part of a compressed weight whose last op is rewritten."""
        if not op.type.startswith("constexpr_"):
            return False
        users = [user for output in op.outputs for user, _ in function.uses(output.name)]
        for user in users:
            if not user.type.startswith("constexpr_"):
                return False
            site = self._by_place.get((function.name, user.outputs[0].name))
            rewritten = site is not None and self._answer(site) is not None
            if not rewritten and not self._feeds_rewritten(function, user):
                return False
        return bool(users)

    def _keep(self, function: SavedFunction, op: Any) -> None:
        """Point an op that stays at the moved constants and the renamed weights."""
        for _, value in sorted(op.attributes.items()):  # a protobuf map has no order of its own
            self._move(value)
        for _, argument in sorted(op.inputs.items()):
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "value":
                    self._move(binding.value)
                else:
                    binding.name = self._renamed.get((function.name, binding.name), binding.name)

    def _move(self, value: Any) -> None:
        if value.WhichOneof("value") == "blobFileValue":
            self.files.move(self.program.package, value.blobFileValue)
