"""Inputs to run a model on: an ``.npz`` file, a folder of images, a Python function, or random data."""

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from itertools import islice
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.data.npz import read_npz
from milpasses.data.random_data import DISTRIBUTIONS, all_finite, draw_inputs, is_random, read_distribution
from milpasses.errors import MilpassesError, SampleError, no_such_file
from milpasses.interpreter import Feature, Interpreter, PipelineInterpreter
from milpasses.interpreter.io import describe_function, feed
from milpasses.interpreter.program import load

Label = str | int
RANDOM_SAMPLES = 8
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FORMS = "an .npz file, a folder of images, module:function, or random (random:uniform, random:positive)"


@attrs.frozen(eq=False)
class Sample:
    """One run of the model.

    ``inputs``: an array for each input; images as uint8 [height, width, 3] in RGB order or [height, width].
    ``label``: the true class, by name or by index; a tuple of them, one a row, where the model takes a batch.
    """

    inputs: dict[str, Any]
    label: Label | tuple[Label, ...] | None = None
    name: str = ""


class Samples:
    """An iterable of ``Sample``, read one at a time and checked against the inputs of a model.

    ``features`` are the model's inputs, ``description`` says where the data comes from, ``random`` that it
    means nothing. ``len()`` works where the number is known beforehand (a function's is not: TypeError).
    Iterating raises ``SampleError`` at the first sample that does not fit, or if there is none.
    """

    def __init__(
        self,
        source: Callable[[], Iterable[Sample]],
        features: Mapping[str, Feature],
        description: str,
        count: int | None = None,
        *,
        limit: int | None = None,
        random: bool = False,
        redrawn: "Samples | None" = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise SampleError(f"the number of samples must be at least 1, got {limit}")
        self.features = {name: feature for name, feature in features.items() if feature.kind != "state"}
        self.description = description
        self.random = random
        self._source, self._count, self._redrawn = source, count, redrawn
        self._limit = None if limit is None else min(limit, sys.maxsize)

    @classmethod
    def of(
        cls, data: Any, model: Any, *, limit: int | None = None, seed: int = 0, function: str | None = None
    ) -> "Samples":
        """Samples from whatever names or holds them.

        Args:
            data: one of
                the path of an ``.npz`` file: an array for each input by its name. An array with one dimension
                more than its input holds samples along the first axis. An array with as many dimensions is
                one sample; but where the input's first size is 1 each row is a sample. Optional ``labels``:
                integers or texts, one a sample (or a row of them, where the model takes a batch);
                a mapping from names to arrays: the same rules;
                the path of a folder of images: a folder for each class names the labels, files directly in
                it have none. Each is scaled to fill and cropped around its centre, bilinear, and goes to the
                image input; or to the only input, if that is a float (1, 3, height, width), as RGB 0..1,
                or (1, 1, height, width), as luminance 0..1. Needs ``milpasses[images]``;
                a callable without parameters, or its name as ``module:function``, or an iterable: it gives
                a mapping from names to arrays for each run, or a pair (mapping, label), or a ``Sample``;
                ``"random"``, ``"random:uniform"``, ``"random:positive"``: see ``seed``;
                ``Samples``: taken as they are, ``limit`` apart.
            model: the model, its ``Interpreter``, or a mapping from names to ``Feature``.
            limit: use the first ``limit`` samples; with ``random`` draw so many (default 8).
            seed: of the random data: floats are normal with mean 0 and deviation 1 (``uniform``: in
                [0, 1); ``positive``: the normal ones without their sign, at least 2**-10), images uniform
                over 0..255, integers and booleans 0 or 1 (valid as a mask, and as an index into any table).
                Sample i is the same whatever their number.
            function: which function of a multifunction model; its default one unless given.

        Raises:
            SampleError: what is wrong with the data, and what would fit.
        """
        if isinstance(data, Samples):
            return cls(
                data._source, data.features, data.description, data._count,
                limit=data._limit if limit is None else limit, random=data.random, redrawn=data._redrawn,
            )  # fmt: skip
        features = model_inputs(model, function)
        if isinstance(data, str | os.PathLike):
            return cls._named(os.fspath(cast(str, data)), features, limit, seed)
        if isinstance(data, Mapping):
            given = cast(Mapping[str, Any], data)
            rows = _stacked(
                {name: np.asarray(array) for name, array in given.items()}, features, "the arrays"
            )
            return cls(lambda: rows, features, "arrays", len(rows), limit=limit)
        if callable(data):
            return cls._called(data, getattr(data, "__name__", type(data).__name__), features, limit)
        if isinstance(data, Iterable):
            items = cast(Iterable[Any], data)
            count = len(items) if isinstance(items, Sized) else None
            return cls(lambda: _from_items(items, "item"), features, "an iterable", count, limit=limit)
        raise SampleError(
            f"data must be {_FORMS}, or a callable, mapping or iterable; got {type(data).__name__}"
        )

    @classmethod
    def _named(cls, text: str, features: Mapping[str, Feature], limit: int | None, seed: int) -> "Samples":
        path = Path(text)
        if is_random(text) and not path.exists():
            drawn = cls._drawn(features, read_distribution(text), seed, limit)
            if text == "random":  # nobody asked for a distribution
                drawn._redrawn = cls._drawn(features, "uniform", seed, limit)
            return drawn
        if path.is_dir():
            from milpasses.data.image_folder import read_folder

            files, read = read_folder(path, features)
            return cls(
                lambda: (Sample(read(file), label, str(file)) for file, label in files),
                features, f"images of {path}", len(files), limit=limit,
            )  # fmt: skip
        if path.is_file():
            rows = _stacked(read_npz(path), features, str(path))
            return cls(lambda: rows, features, str(path), len(rows), limit=limit)
        if _FUNCTION.fullmatch(text):
            return cls._called(_import(text), text, features, limit)
        problem = f"{text}: no such function" if ":" in text else no_such_file(path)
        raise SampleError(f"{problem}; data is {_FORMS}")

    @classmethod
    def _drawn(
        cls, features: Mapping[str, Feature], distribution: str, seed: int, limit: int | None
    ) -> "Samples":
        count = RANDOM_SAMPLES if limit is None else limit

        def rows() -> Iterator[Sample]:
            for index, inputs in enumerate(draw_inputs(features, seed, distribution)):
                yield Sample(inputs, None, f"random[{index}]")

        description = f"{DISTRIBUTIONS[distribution]}, seed {seed}"
        return cls(rows, features, description, count, limit=count, random=True)

    def finite(self, run: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> "Samples":
        """Random samples drawn again from [0, 1) where these make a model NaN or infinite and those do not.

        ``run`` gives the model's outputs for the inputs of a sample. A model that takes the logarithm of its
        input is measured on nothing with normal data. The first 8 decide. Samples that are not random, or
        of a distribution that was asked for, stay; ``description`` says what was done.
        """
        other = None if self._redrawn is None else Samples.of(self._redrawn, self.features, limit=self._limit)

        def runs(samples: Samples) -> bool:
            return all(all_finite(run(sample.inputs)) for sample in islice(samples, RANDOM_SAMPLES))

        if other is None or runs(self) or not runs(other):
            return self
        other.description += " (normal data makes the model itself NaN or infinite)"
        return other

    @classmethod
    def _called(
        cls, function: Callable[[], Any], name: str, features: Mapping[str, Feature], limit: int | None
    ) -> "Samples":
        def items() -> Iterator[Sample]:
            try:
                yield from _from_items(function(), name)
            except MilpassesError:
                raise
            except Exception as error:  # the user's own code: one line, and the traceback on demand
                raise SampleError(f"{name} failed: {type(error).__name__}: {error}") from error

        return cls(items, features, f"the function {name}", limit=limit)

    def __iter__(self) -> Iterator[Sample]:
        empty = True
        for sample in islice(self._source(), self._limit):
            try:
                feed(self.features, sample.inputs, None, rounded=False)
            except ValueError as error:  # InterpreterError, and NumPy's for lists that are no array
                raise SampleError(f"{sample.name}: {error}") from error
            empty = False
            yield sample
        if empty:
            raise SampleError(f"{self.description}: there is no sample")

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError(f"the number of samples of {self.description} is not known beforehand")
        return self._count if self._limit is None else min(self._count, self._limit)

    @property
    def count(self) -> int | None:
        """The number of samples, None where it is not known beforehand."""
        return None if self._count is None else len(self)

    def apart(self, every: int) -> "Samples":
        """Every so many-th sample, the second first: what ``statistics(held_out=every)`` keeps apart."""
        count = None if self.count is None else len(range(1, self.count, every))
        return Samples(
            lambda: islice(islice(self._source(), self._limit), 1, None, every),
            self.features, f"1 in {every} of {self.description}", count, random=self.random,
        )  # fmt: skip

    def at(self, places: Collection[int]) -> "Samples":
        """The samples at these places, in their order."""

        def items() -> Iterator[Sample]:
            every = islice(self._source(), self._limit)
            return (sample for place, sample in enumerate(every) if place in places)

        return Samples(
            items,
            self.features, f"{len(places)} of {self.description}", len(places), random=self.random,
        )  # fmt: skip

    def sorted_places(self) -> list[int]:
        """The places of all samples in an order that follows from what they hold, not from where they stand.

        Reads all of them; of each a digest is kept.
        """
        digests = [(_digest(sample.inputs), place) for place, sample in enumerate(self)]
        return [place for _, place in sorted(digests)]

    def __repr__(self) -> str:
        return f"Samples({self.description})"


def _digest(inputs: Mapping[str, Any]) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(inputs):
        array = np.ascontiguousarray(inputs[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.digest()


def model_inputs(model: Any, function: str | None = None) -> dict[str, Feature]:
    """The inputs of a model: a path, ``MLModel``, ``Program``, ``Interpreter``, or the mapping itself."""
    if isinstance(model, Interpreter):
        return model.inputs
    if isinstance(model, Mapping):
        return dict(cast(Mapping[str, Feature], model))
    if PipelineInterpreter.takes(model):
        return PipelineInterpreter(model).inputs
    return describe_function(load(model, function))


def _stacked(arrays: Mapping[str, NDArray[Any]], features: Mapping[str, Feature], where: str) -> list[Sample]:
    """The samples of arrays that hold them along the first axis; they are views."""
    wanted = {name: feature for name, feature in features.items() if feature.kind != "state"}
    inputs = {name: array for name, array in arrays.items() if name != "labels" or name in wanted}
    unknown = sorted(set(inputs) - set(wanted))
    missing = sorted(n for n, feature in wanted.items() if n not in inputs and feature.default is None)
    if unknown or missing:
        problems = [f"{', '.join(missing)} missing"] if missing else []
        problems += [f"{', '.join(unknown)} unknown"] if unknown else []
        raise SampleError(f"{where}: {'; '.join(problems)}; the model's inputs are {', '.join(wanted)}")
    rows = {name: _rows(wanted[name], array, where) for name, array in inputs.items()}
    counts = {name: len(array) for name, array in rows.items()}
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise SampleError(f"{where}: the inputs differ in their number of samples: {listed or 'none'}")
    count = next(iter(counts.values()))
    labels = (
        _labels(arrays["labels"], count, where) if "labels" not in inputs and "labels" in arrays else None
    )
    return [
        Sample(
            {name: array[index] for name, array in rows.items()},
            None if labels is None else labels[index],
            f"{where}[{index}]",
        )
        for index in range(count)
    ]


def _rows(feature: Feature, array: NDArray[Any], where: str) -> NDArray[Any]:
    """``array`` with the samples along the first axis."""
    if feature.image is None:
        shape: tuple[Any, ...] = tuple("?" if size is None else size for size in feature.shape)
    else:
        shape = ("height", "width") if feature.image.is_gray else ("height", "width", 3)
    if array.ndim == len(shape) + 1:
        return array
    if array.ndim == len(shape):
        return array[:, None] if feature.image is None and shape[:1] == (1,) else array[None]
    alone = f"({', '.join(map(str, shape))})"
    raise SampleError(
        f"{where}: input {feature.name} must have the shape (samples, {alone[1:]} or, for one sample, "
        f"{alone}; got {array.shape}"
    )


def _labels(labels: NDArray[Any], count: int, where: str) -> list[Label | tuple[Label, ...]]:
    if labels.dtype.kind not in "iuU":
        raise SampleError(f"{where}: labels must be integers or texts, got {labels.dtype}")
    values: list[Any] = labels.tolist()
    if labels.ndim == 1 and len(values) == count:
        return values
    if labels.ndim == 2 and len(values) == count:
        return [tuple(row) for row in values]
    if labels.ndim == 1 and count == 1:
        return [tuple(values)]
    raise SampleError(f"{where}: {count} samples need {count} labels, got labels of shape {labels.shape}")


def _import(text: str) -> Callable[[], Any]:
    """The function called ``module:function``; modules of the current folder are found as well."""
    module, _, name = text.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        target: Any = importlib.import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
    except Exception as error:  # whatever the module does when it is imported
        raise SampleError(f"{text}: cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
    if not callable(target):
        raise SampleError(f"{text}: is no function but {type(target).__name__}")
    return target


def _from_items(items: Any, name: str) -> Iterator[Sample]:
    for index, item in enumerate(items):
        if isinstance(item, Sample):
            yield item if item.name else attrs.evolve(item, name=f"{name}[{index}]")
            continue
        inputs, label = (
            cast(Any, item) if isinstance(item, tuple) and len(cast(Any, item)) == 2 else (item, None)
        )
        if not isinstance(inputs, Mapping):
            raise SampleError(
                f"{name}[{index}]: must be a mapping from input names to arrays, or a pair of that and a "
                f"label; got {type(item).__name__}"
            )
        if isinstance(label, np.ndarray | list):
            label = tuple(np.asarray(label).tolist())
        elif isinstance(label, np.generic):
            label = label.item()
        yield Sample(dict(cast(Mapping[str, Any], inputs)), label, f"{name}[{index}]")
