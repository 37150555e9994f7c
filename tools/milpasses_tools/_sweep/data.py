"""The samples of a sweep: read once, divided once, kept as arrays that every worker reads."""

import hashlib
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import attrs
import numpy as np

from milpasses.data.random_data import is_random
from milpasses.data.samples import Label, Sample, Samples
from milpasses.errors import SampleError
from milpasses.interpreter import Feature
from milpasses.program.files import whole_file, write_json
from milpasses_tools._sweep.store import content_hash, hash_files

if TYPE_CHECKING:
    from milpasses_tools._compare.runners import Runner


@attrs.frozen
class Skipped:
    """A file that could not be read, and why."""

    name: str
    reason: str


@attrs.frozen(eq=False)
class Prepared:
    """Samples as they were read: arrays in ``path`` (.npz), everything else here.

    ``measured`` and ``calibration`` are the indices of either part; ``key`` is the hash of every array and
    label, and of how they were divided.
    """

    path: Path
    names: tuple[str, ...]
    labels: tuple[Any, ...]
    measured: tuple[int, ...]
    calibration: tuple[int, ...]
    skipped: tuple[Skipped, ...]
    description: str
    random: bool
    key: str

    @property
    def labelled(self) -> int:
        """How many of the measured samples have a label."""
        return sum(self.labels[index] is not None for index in self.measured)

    def samples(self, indices: tuple[int, ...]) -> Iterator[Sample]:
        """The samples of one part, in order."""
        with np.load(self.path, allow_pickle=False) as file:
            inputs: dict[int, list[tuple[str, str]]] = {}
            for entry in file.files:
                index, _, name = entry.partition("|")
                inputs.setdefault(int(index), []).append((name, entry))
            for index in indices:
                arrays = {name: file[entry] for name, entry in inputs[index]}
                yield Sample(arrays, self.labels[index], self.names[index])

    def split(self, seed: int) -> dict[str, Any]:
        """Which sample is in which part, for whoever reads the results."""
        return {
            "data": self.description,
            "seed": seed,
            "measured": [self.names[index] for index in self.measured],
            "calibration": [self.names[index] for index in self.calibration],
            "skipped": [attrs.asdict(one) for one in self.skipped],
        }


def prepare(
    data: Any,
    runner: "Runner",
    cache: Path,
    *,
    limit: int | None,
    seed: int,
    calibration: float,
) -> Prepared:
    """Read ``data`` (see ``Samples.of``), or take what an earlier run has read of the same content.

    ``runner`` runs the original: it has the inputs, and random data that makes it NaN is drawn again.
    ``calibration``: the share of each class that is set aside, drawn with ``seed``. A file of a folder of
    images that cannot be read is skipped and listed. Raises ``SampleError``.
    """
    source = _source(data, runner.inputs, limit, seed)
    stem = None if source is None else cache / f"inputs-{source[:20]}"
    read = None if stem is None else _cached(stem)
    if read is None:
        read = _read(data, runner, limit, seed, cache, stem)
    names, labels, skipped, path, content, description, drawn = read
    measured, kept = divide(labels, calibration, seed)
    key = content_hash([content, repr(measured)])
    return Prepared(path.absolute(), names, labels, measured, kept, skipped, description, drawn, key)


_Read = tuple[tuple[str, ...], tuple[Any, ...], tuple[Skipped, ...], Path, str, str, bool]


def _source(data: Any, features: dict[str, Feature], limit: int | None, seed: int) -> str | None:
    """A hash of what ``data`` names, where that can be had without reading every sample; else None."""
    if not isinstance(data, str | Path) or is_random(data) or not Path(data).exists():
        return None
    about = repr(list(features.items()))
    return content_hash([hash_files(Path(data)), str(data), about, str(limit)])


def _cached(stem: Path) -> _Read | None:
    try:
        about = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not stem.with_suffix(".npz").exists():
        return None
    labels = tuple(tuple(one) if isinstance(one, list) else one for one in about["labels"])
    skipped = tuple(Skipped(**one) for one in about["skipped"])
    path = stem.with_suffix(".npz")
    return (
        tuple(about["names"]),
        labels,
        skipped,
        path,
        about["content"],
        about["description"],
        about["random"],
    )


def _read(data: Any, runner: "Runner", limit: int | None, seed: int, cache: Path, stem: Path | None) -> _Read:
    skipped: list[Skipped] = []
    samples, description, drawn = _samples(data, runner, limit, seed, skipped)
    names: list[str] = []
    labels: list[Label | tuple[Label, ...] | None] = []
    content = hashlib.sha256()

    def write(file: IO[bytes]) -> None:
        """One array at a time, as ``numpy.savez`` writes them, so that no more is in memory."""
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for index, sample in enumerate(samples):
                names.append(sample.name)
                labels.append(sample.label)
                content.update(repr((sample.name, sample.label)).encode())
                for name, value in sample.inputs.items():
                    array = np.ascontiguousarray(value)
                    content.update(repr((name, str(array.dtype), array.shape)).encode())
                    content.update(array.tobytes())
                    with archive.open(f"{index}|{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, array, allow_pickle=False)

    new = cache / "inputs-new.npz"
    with whole_file(new, force=True) as file:
        write(file)
    digest = content.hexdigest()
    stem = cache / f"inputs-{digest[:20]}" if stem is None else stem
    path = new.rename(stem.with_suffix(".npz"))
    about = {
        "names": names, "labels": labels, "skipped": [attrs.asdict(one) for one in skipped],
        "content": digest, "description": description, "random": drawn,
    }  # fmt: skip
    write_json(stem.with_suffix(".json"), about, force=True)
    return tuple(names), tuple(labels), tuple(skipped), path, digest, description, drawn


def _samples(
    data: Any, runner: "Runner", limit: int | None, seed: int, skipped: list[Skipped]
) -> tuple[Iterator[Sample], str, bool]:
    if isinstance(data, str | Path) and Path(data).is_dir():
        return _images(Path(data), runner.inputs, limit, skipped), f"images of {data}", False
    source = Samples.of(data, runner.inputs, limit=limit, seed=seed).finite(runner.run)
    return iter(source), source.description, source.random


def _images(
    folder: Path, features: dict[str, Feature], limit: int | None, skipped: list[Skipped]
) -> Iterator[Sample]:
    """The images that can be read, ``limit`` of them; raises ``SampleError`` if there is none."""
    from milpasses.data.image_folder import read_folder

    files, read = read_folder(folder, features)
    found = 0
    for path, label in files:
        if found == limit:
            return
        try:
            inputs = read(path)
        except SampleError as error:
            skipped.append(Skipped(str(path), str(error)))
            continue
        found += 1
        yield Sample(inputs, label, str(path))
    if not found:
        raise SampleError(f"{folder}: none of {len(files):,} images can be read; {skipped[0].reason}")


def divide(labels: tuple[Any, ...], share: float, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(measured, set aside): of each label ``share`` of the samples is set aside, drawn with ``seed``.

    What is set aside comes in random order, so that the first few are of many classes. Raises ``SampleError``
    where either part would be empty.
    """
    if not 0 <= share < 1:
        raise SampleError(f"--calibration is a share of the samples, 0 to 1; got {share:g}")
    groups: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(repr(label), []).append(index)
    draw = random.Random(seed)
    kept: list[int] = []
    for label in sorted(groups):
        kept += draw.sample(groups[label], round(share * len(groups[label])))
    if share and not kept:
        kept = draw.sample(range(len(labels)), 1)
    measured = sorted(set(range(len(labels))) - set(kept))
    if not measured:
        raise SampleError(
            f"{len(labels)} samples are too few to set {share:.0%} aside: nothing is left to measure"
        )
    draw.shuffle(kept)
    return tuple(measured), tuple(kept)
