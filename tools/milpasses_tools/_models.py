"""Opening whatever a person names as a model, to look at it: packages, pipelines, legacy networks."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from milpasses.program.package import Package

if TYPE_CHECKING:
    from milpasses.program.pipelines import SavedPipeline


def open_readable(model: Any) -> Package:
    """The package of an ML Program, or of what the reader makes of a legacy network.

    A legacy network (an ``.mlmodel``, one inside an ``.mlpackage``, or a loaded one) becomes a float32 ML
    Program in a temporary folder that goes with the process; the model itself is not touched.

    Raises ``MilpassesError`` with what is wrong with the file.
    """
    from milpasses.program.opening import open_program
    from milpasses.program.sources import read_source

    if isinstance(model, Package):
        return model
    source = read_source(model)
    if not source.is_network:
        return open_program(source).package
    from milpasses.neuralnetwork.upgrading import upgrade

    return open_program(upgrade(source, precision="float32")).package


def open_parts(model: Any, part: str | None = None) -> dict[str, Package]:
    """The package of each part of a pipeline, or of ``part`` alone, by name; empty for other models.

    ML Programs, and what the reader makes of neural networks; a pipeline of these alone is one model here.

    Each has what the pipeline's report says of its weights, under their own names. Raises ``MilpassesError``,
    also where ``part`` is asked of a model that is no pipeline.
    """
    from milpasses.errors import MilpassesError
    from milpasses.program.package import new_message
    from milpasses.report import METADATA_KEY, read_metadata

    pipeline = open_whole(model, part)
    if pipeline is None:
        if part is not None:
            raise MilpassesError(f"part {part}: the model is no pipeline")
        return {}
    report = read_metadata(pipeline.spec.description.metadata.userDefined.get(METADATA_KEY, ""))
    found: dict[str, Package] = {}
    for name, program in pipeline.programs(part).items():
        spec = new_message("Model_pb2", "Model")
        spec.CopyFrom(program.spec)
        own = [
            {**record, "name": record["name"].removeprefix(f"{name}/")}
            for record in report.get("weights", ())
            if record["name"].startswith(f"{name}/")
        ]
        if own:
            content = json.dumps({**report, "weights": own})
            spec.description.metadata.userDefined[METADATA_KEY] = content
        found[name] = attrs.evolve(program.package, spec=spec)
    return found


def open_whole(model: Any, part: str | None = None) -> "SavedPipeline | None":
    """A pipeline whose neural networks were read into float32 programs; None for any other model.

    Also None for a pipeline of neural networks alone, which is read as one, unless ``part`` is asked for.
    """
    from milpasses.neuralnetwork.upgrading import upgrade
    from milpasses.program.opening import open_program
    from milpasses.program.pipelines import is_pipeline, open_pipeline
    from milpasses.program.sources import NETWORKS

    if not is_pipeline(model):
        return None
    pipeline = open_pipeline(model)
    networks = {leaf.name: leaf.spec for leaf in pipeline.leaves() if leaf.kind in NETWORKS}
    if len(networks) == len(pipeline.leaves()) and part is None:
        return None
    read = {
        name: open_program(upgrade(spec, precision="float32"))
        for name, spec in networks.items()
        if part in (None, name)
    }
    return attrs.evolve(pipeline, raised={**pipeline.raised, **read})


def is_network(path: Path) -> bool:
    """Whether the model at ``path`` is a legacy network: an ``.mlmodel``, or one inside an ``.mlpackage``.

    A pipeline of neural networks alone is one; one with other parts is none.
    """
    from milpasses.program.pipelines import is_pipeline, open_pipeline
    from milpasses.program.sources import NETWORKS, read_source

    if is_pipeline(path):
        return all(leaf.kind in NETWORKS for leaf in open_pipeline(path).leaves())
    return path.suffix.lower() == ".mlmodel" or read_source(path).is_network
