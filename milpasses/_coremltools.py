"""Every name of coremltools that is used here and that its documentation does not promise, in one place.

The rest of milpasses calls what stands here, by the name ``host``::

    from milpasses import _coremltools as host

    program = host.load_program(spec, version, weights)

A name is looked up when it is needed, so a coremltools without it costs the feature that needs it and nothing
else: that feature raises ``MissingInternalError``, which says so. ``INTERNALS`` lists all of them;
``milpasses doctor`` checks each.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from importlib import import_module
from operator import attrgetter
from typing import Any

import attrs

from milpasses.errors import MilpassesError


class MissingInternalError(MilpassesError):
    """The installed coremltools lacks a name that a feature of milpasses is built on."""


@attrs.frozen
class Internal:
    """A name of coremltools that is not public: ``attribute`` of ``module``, and what fails without it.

    ``attribute`` may be a path (``Block.replace_uses_of_var_after_op``). An ``on_instances`` one is set by
    the class's ``__init__`` (``Var._sym_type``), and is looked for there.
    """

    module: str
    attribute: str
    feature: str
    on_instances: bool = False

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call what has the name, where that is a function."""
        return self.find()(*args, **options)

    @property
    def name(self) -> str:
        """The name in full: ``coremltools.models.utils._create_mlpackage``."""
        return f"{self.module}.{self.attribute}" if self.attribute else self.module

    @property
    def present(self) -> bool:
        """Whether the installed coremltools has the name."""
        try:
            self.find()
        except MissingInternalError:
            return False
        return True

    def find(self) -> Any:
        """What has the name (the class, where instances have it); raises ``MissingInternalError``."""
        try:
            found: Any = import_module(self.module)
            *path, last = self.attribute.split(".")
            for part in path:
                found = getattr(found, part)
            if self.on_instances:
                if not _sets(found, last):
                    raise AttributeError(last)
                return found
            return getattr(found, last) if last else found
        except (ImportError, AttributeError):
            raise MissingInternalError(
                f"{self.feature}: coremltools {version()} has no {self.name}, which this is built on; "
                "milpasses doctor says what else is missing and which version to install"
            ) from None


def _sets(kind: type, field: str) -> bool:
    """Instances of ``kind`` have ``field``: a slot, or assigned (or left to a subclass) in ``__init__``."""
    return hasattr(kind, field) or any(
        field in code.co_names
        for base in kind.__mro__
        if (code := getattr(vars(base).get("__init__"), "__code__", None)) is not None
    )


INTERNALS: list[Internal] = []


def missing_internals() -> list[Internal]:
    """Those of ``INTERNALS`` that the installed coremltools lacks."""
    return [internal for internal in INTERNALS if not internal.present]


def version() -> str:
    """The version of the installed coremltools."""
    return str(getattr(import_module("coremltools"), "__version__", "of an unknown version"))


def _internal(module: str, attribute: str, feature: str, on_instances: bool = False) -> Internal:
    internal = Internal(f"coremltools{module}", attribute, feature, on_instances)
    INTERNALS.append(internal)
    return internal


_COMPRESS = "compressing a saved model"
_READ = "reading the program of a saved model"
_RAISE = "raising a model to a newer deployment target"
_UPGRADE = "upgrading a legacy network"
_PASSES = "milpasses' passes in ct.convert"
_VERIFY = "checking what an encoding decodes to"
_TRACE = "tracing a conversion"
_REPLAY = "building a kept program again (replay, bisect)"
_MODEL = "taking an MLModel"

# --- Messages of the specification ---------------------------------------------------------------------

_PROTO = _internal(".proto", "", "reading and writing models")
_OPSETS = _internal("", "_OPSET", _COMPRESS)
_HELPER = ".converters.mil.backend.mil.helper"
# (shape, number of MIL_pb2.DataType) -> the ValueType message of a tensor
tensor_type = _internal(_HELPER, "create_valuetype_tensor", _COMPRESS)
# (scalar or string) -> its Value message
scalar_value = _internal(_HELPER, "create_scalar_value", _COMPRESS)
# (array, whose dtype may carry MIL's marks) -> the Value message that holds it
tensor_value = _internal(_HELPER, "create_tensor_value", _COMPRESS)
# (file name, offset, shape, number of MIL_pb2.DataType) -> the Value message of a tensor in a weight file
file_value = _internal(_HELPER, "create_file_value_tensor", _COMPRESS)


def message_class(module: str, name: str) -> Any:
    """A message or enumeration of one of the protobuf modules: ``("MIL_pb2", "DataType")``."""
    _PROTO.find()
    return Internal(f"coremltools.proto.{module}", name, _PROTO.feature).find()


def opset_names() -> Mapping[int, str]:
    """Specification version -> the name that a program of it gives its opset (``CoreML7``)."""
    return _OPSETS.find()


# --- Programs: from a specification, to a specification, to a package ------------------------------------

_LOADER = ".converters.mil.frontend.milproto.load"
# (specification, version of the ops, folder of the weight files or "") -> Program
load_program = _internal(_LOADER, "load", _RAISE)
# (MIL_pb2.Program, version of the ops, folder of the weight files or "") -> Program
load_mil_program = _internal(_LOADER, "load_mil_proto", _READ)
_TO_SPEC = _internal(".converters.mil.backend.mil.load", "load", _RAISE)
# (specification, folder of the weight files, path to write) -> the path
create_package = _internal(".models.utils", "_create_mlpackage", f"{_RAISE}, and {_UPGRADE}")
_CONVERT = _internal(".converters.mil.converter", "mil_convert_to_proto", _UPGRADE)
_REGISTRY = _internal(
    ".converters.mil.converter",
    "ConverterRegistry.backends",
    f"{_UPGRADE}, and the report inside a model that ct.convert made",
)
_BARS = _internal(".converters.mil.mil.passes.pass_pipeline", "tqdm", "hiding coremltools' progress bars")


def program_to_spec(program: Any, weights: str, specification_version: int, model_description: Any) -> Any:
    """The specification of a ``Program``, as it stands; its weight file goes into the folder ``weights``."""
    return _TO_SPEC(
        program, weights, specification_version=specification_version, model_description=model_description
    )


def convert_program(
    program: Any, passes: Any, weights: str, specification_version: int, model_description: Any
) -> Any:
    """The specification of a ``Program`` after the pipeline ``passes``; the rest as ``program_to_spec``."""
    _REGISTRY.find()
    converted: Any = _CONVERT(
        program,
        "milinternal",
        "mlprogram",
        import_module(_REGISTRY.module).ConverterRegistry,
        main_pipeline=passes,
        weights_dir=weights,
        specification_version=specification_version,
        model_description=model_description,
    )
    return converted[0]


def replace_backend(name: str, subclass: Callable[[Any], Any]) -> bool:
    """Register ``subclass(current)`` as the exporter ``name``; False where coremltools has no registry.

    ``subclass`` returns ``current`` itself to leave all as it is. The one function here that may be called
    when milpasses is imported, so it never raises for a missing name.
    """
    backends: dict[str, Any] = _REGISTRY.find() if _REGISTRY.present else {}
    if name in backends:
        backends[name] = subclass(backends[name])
    return name in backends


@contextmanager
def quiet_conversion() -> Generator[None]:
    """Without coremltools' progress bars and notices; the bars stay where they cannot be reached."""
    logger = logging.getLogger("coremltools")
    level = logger.level

    def plain(items: Iterable[str], **_: Any) -> Iterable[str]:
        return items

    module: Any = import_module(_BARS.module) if _BARS.present else None
    bars = None if module is None else module.tqdm
    if module is not None:
        module.tqdm = plain
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if module is not None:
            module.tqdm = bars


# --- Types and decoding ----------------------------------------------------------------------------------

# (name of a MIL type, as fp16 or uint4) -> its NumPy type, marks in the dtype included
numpy_type = _internal(".converters.mil.mil.types.type_mapping", "string_to_nptype", _COMPRESS)
# (one of MIL's builtin types) -> its NumPy type, None where there is none
numpy_type_of = _internal(".converters.mil.mil.types", "nptype_from_builtin", "running programs")
_DECODERS = {
    (typed, op_type): _internal(f".converters.mil.mil.ops.defs.{module}", f"{op_type}.decompress", _VERIFY)
    for typed, module, op_types in (
        (False, "iOS16.constexpr_ops", "affine_dequantize lut_to_dense sparse_to_dense"),
        (
            True,
            "iOS18.compression",
            "blockwise_shift_scale lut_to_dense lut_to_sparse sparse_blockwise_shift_scale sparse_to_dense",
        ),
    )
    for op_type in (f"constexpr_{name}" for name in op_types.split())
}


def decompress(op_type: str, typed: bool, **values: Any) -> Any:
    """What coremltools' own class of a constexpr op computes; ``typed`` for the ops since iOS18.

    ``constexpr_cast`` has no such function.
    """
    return _DECODERS[typed, op_type](**values)


# --- Programs in memory ----------------------------------------------------------------------------------

_PASS_REGISTRY = _internal(".converters.mil.mil.passes.pass_registry", "PASS_REGISTRY", _PASSES)
# (name, value) -> an option as a pass's set_options takes it
pass_option = _internal(".converters.mil.mil.passes.graph_pass", "PassOption", _REPLAY)
_CURRENT_BLOCK = _internal(".converters.mil.mil.block", "curr_block", _PASSES)
_REPLACE_USES = _internal(".converters.mil.mil.block", "Block.replace_uses_of_var_after_op", _PASSES)
_KNOWN_VALUE = _internal(".converters.mil.mil.var", "Var._sym_val", f"{_UPGRADE}, and {_TRACE}", True)
for _field in ("_sym_type", "_op", "_child_ops"):
    _internal(".converters.mil.mil.var", f"Var.{_field}", _TRACE, True)
for _field in ("_input_vars", "_output_vars"):
    _internal(".converters.mil.mil.operation", f"Operation.{_field}", _TRACE, True)
_PIPELINES = ".converters.mil.mil.passes.pass_pipeline"
_MANAGER = _internal(_PIPELINES, "PassPipelineManager.apply_pipeline", _TRACE)
_internal(_PIPELINES, "PASS_REGISTRY", _TRACE)
_NAME_COUNT = _internal(".converters.mil.mil", "Builder.name_count", f"{_UPGRADE}, and {_REPLAY}")
# () -> a name for a block that is built by hand
new_block_name = _internal(".converters.mil.mil", "Block._get_new_name", _REPLAY)
# (inputs of a control-flow op, its built blocks, its type): adds the functions that give the blocks
set_nested_inputs = _internal(_LOADER, "_set_inputs_for_control_flow_op", _REPLAY)
# (blocks, op): makes the op the one around the blocks
set_nested_owner = _internal(_LOADER, "_set_outer_op_for_nested_blocks", _REPLAY)


def pass_registry() -> Any:
    """coremltools' passes by name: ``name in registry``, ``registry[name]``, ``registry.passes``."""
    return _PASS_REGISTRY.find()


def current_block() -> Any:
    """The block into which the builder writes; None outside of any."""
    current = _CURRENT_BLOCK.find()
    try:
        return current()
    except ValueError:
        return None


def replace_uses(block: Any, op: Any, old: Any, new: Any) -> None:
    """Let everything after ``op`` in ``block`` that uses the variable ``old`` use ``new``, of any type."""
    _REPLACE_USES(block, anchor_op=op, old_var=old, new_var=new, no_check_var_types=True, force_replace=True)


def hide_value(variable: Any) -> None:
    """Forget the value that ``variable`` holds, or that was inferred for it."""
    _KNOWN_VALUE.find()
    variable._sym_val = None


# The fields behind coremltools' properties: a trace reads them for every op after every pass.
known_value = attrgetter("_sym_val")
variable_type = attrgetter("_sym_type")
producer_of = attrgetter("_op")
users_of = attrgetter("_child_ops")
inputs_of = attrgetter("_input_vars")
outputs_of = attrgetter("_output_vars")


@contextmanager
def watched_passes(
    run: Callable[[Callable[[Any, Any], None], Any, Any], None], registry: Callable[[Any], Any]
) -> Generator[None]:
    """Stand between pipelines and passes: a pipeline runs as ``run(apply, program, pipeline)``.

    It finds its passes in ``registry(coremltools' registry)``. Raises ``MissingInternalError`` unless
    everything is there that a trace reads and replaces.
    """
    for internal in INTERNALS:
        if _TRACE in internal.feature:
            internal.find()
    module: Any = import_module(_MANAGER.module)
    manager = module.PassPipelineManager
    apply, known = vars(manager)["apply_pipeline"], module.PASS_REGISTRY
    original = manager.apply_pipeline

    def watched(prog: Any, pass_pipeline: Any) -> None:
        run(original, prog, pass_pipeline)

    manager.apply_pipeline = staticmethod(watched)
    module.PASS_REGISTRY = registry(known)
    try:
        yield
    finally:
        manager.apply_pipeline = apply
        module.PASS_REGISTRY = known


def restart_names() -> None:
    """Let the builder name ops as if it had named none before."""
    _NAME_COUNT.find().clear()


# --- Models ------------------------------------------------------------------------------------------------

# (MLModel) -> whether it has several functions
is_multifunction = _internal(".models", "MLModel._is_multifunction", _MODEL)
_MODEL_SPEC = _internal(".models", "MLModel._spec", _MODEL, True)
_MODEL_PROGRAM = _internal(".models", "MLModel._mil_program", _MODEL, True)
_MODEL_PROXY = _internal(".models", "MLModel.__proxy__", _MODEL, True)
_PROXY_CLASS = _internal(".models.model", "_MLModelProxy", "checking Core ML predictions (doctor)")
_CONFIG_SELECTOR = _internal(
    ".optimize.coreml", "OptimizationConfig._op_selector", "taking coremltools' OptimizationConfig", True
)
_OLD_CONFIGS = (".models.ml_program.compression_utils", "configurations of the deprecated compression_utils")
_SELECTOR = _internal(_OLD_CONFIGS[0], "_default_op_selector", _OLD_CONFIGS[1])
_SELECTOR_SIZE = _internal(_OLD_CONFIGS[0], "_DEFAULT_MIN_WEIGHT_SIZE_TO_COMPRESS", _OLD_CONFIGS[1])


def spec_of(model: Any) -> Any:
    """The specification inside an ``MLModel``, not a copy as ``get_spec()`` gives; None of anything else."""
    _MODEL_SPEC.find()
    return getattr(model, "_spec", None)


def program_of(model: Any) -> Any:
    """The program that an ``MLModel`` was made from, None where it was loaded from a file."""
    _MODEL_PROGRAM.find()
    return model._mil_program


def is_loaded(model: Any) -> bool:
    """Whether an ``MLModel`` is loaded into Core ML (it can predict); False of anything else."""
    _MODEL_PROXY.find()
    return getattr(model, "__proxy__", None) is not None


def core_ml_available() -> bool:
    """Whether coremltools' binding to Core ML loads."""
    return _PROXY_CLASS.find() is not None


def op_selector(config: Any) -> Any:
    """The deprecated API's ``op_selector`` of a configuration; None where it has none."""
    _CONFIG_SELECTOR.find()
    return getattr(config, "_op_selector", None)


def default_op_selector() -> tuple[Any, int]:
    """The deprecated API's own ``op_selector``, and the fewest elements that it takes."""
    return _SELECTOR.find(), int(_SELECTOR_SIZE.find())


# --- Compiled parts ----------------------------------------------------------------------------------------

NATIVE_PARTS = {
    "coremltools.libmilstoragepython": "weight files",
    "coremltools.libmodelpackage": "packages",
}
