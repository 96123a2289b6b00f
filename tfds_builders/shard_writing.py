"""Writes the shards of a data set, one after the other or on Beam workers, with the same result.

Every shard leaves a note beside its records: their image ids, in order, and what was counted. That is how they reach
the process that builds the index, whichever process wrote the shard.

TFDS's own Beam support is not used. It keeps the lengths of more than ten shards in the wrong order (it sorts their
numbers as text), so that rows cannot be read; it writes earlier splits again with every later one; it holds each shard
in memory; and its pipelines grow with the number of shards.
"""

import collections
import dataclasses
import functools
import importlib
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import example_serializer, utils, writer
from tqdm import tqdm

from vilbert_jax.errors import InputError

Examples = Callable[[], Iterator[tuple[str | int, dict[str, Any]]]]

_NOTE = "{name}.written.json"
_PLAN = "plan.pickle"
_INPUT_ERROR = f"{InputError.__module__}.{InputError.__qualname__}"
_BEAM_CONTEXT = re.compile(r" \[while running '[^']*'\]")


@runtime_checkable
class Counting(Protocol):
    """A shard that counts what it did to its records."""

    @property
    def counts(self) -> Mapping[str, int]:
        """What it counted while it was read last, by name."""
        ...


class Shard(NamedTuple):
    """One file to be written.

    Attributes:
        path: the file.
        examples: yields key and example of every record, in order; each example names its ``image_id``. Must pickle
            if Beam is used.
    """

    path: epath.Path
    examples: Examples


class Written(NamedTuple):
    """What shards left in their notes.

    Attributes:
        image_ids: for each shard, the image id of every record.
        counts: summed over the shards.
    """

    image_ids: list[list[str]]
    counts: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is needed to write any of the shards; pickles if the shards do."""

    features: tfds.features.FeatureConnector
    example_writer: writer.ExampleWriter
    shards: Sequence[Shard]

    def write(self, number: int) -> None:
        """Writes one shard and its note.

        Beam may run it again, even twice at once; files get their names when they are whole.
        """
        shard = self.shards[number]
        serializer = example_serializer.ExampleSerializer(self.features.get_serialized_info())  # pyright: ignore[reportArgumentType]: a dict
        image_ids: list[str] = []

        def serialized() -> Iterator[tuple[str | int, bytes]]:
            for key, example in shard.examples():
                image_ids.append(example["image_id"])
                proto = serializer.get_tf_example(self.features.encode_example(example))
                yield key, proto.SerializeToString(deterministic=True)  # else maps lie in the order of a random hash

        with utils.incomplete_file(shard.path) as file:
            self.example_writer.write(file, serialized())
        counts = dict(shard.examples.counts) if isinstance(shard.examples, Counting) else {}
        with utils.incomplete_file(_note(shard)) as file:
            file.write_text(json.dumps({"image_ids": image_ids, "counts": counts}))


def write_here(plan: Plan) -> None:
    """Writes every shard in this process."""
    for number in tqdm(range(len(plan.shards)), desc="writing", unit=" shards", disable=None, leave=False):
        plan.write(number)


def write_on_beam(plan: Plan, folder: epath.Path, config: tfds.download.DownloadConfig) -> None:
    """Writes every shard on the workers of a Beam runner.

    Args:
        plan: what to write.
        folder: that all workers see; the plan is left there while they run, so that the pipeline stays small.
        config: with ``beam_runner`` and ``beam_options``.

    Raises:
        InputError: Beam is not installed, or a worker raised one.
    """
    beam = require_beam()
    file = folder / _PLAN
    file.write_bytes(pickle.dumps(plan))
    try:
        with _pipeline(beam, config) as pipeline:
            _ = (
                pipeline
                | "Number" >> beam.Create(list(range(len(plan.shards))))
                | "Spread" >> beam.Reshuffle()
                | "Write" >> beam.Map(_write_planned, os.fspath(file))
            )
    except (InputError, RuntimeError) as error:
        if message := _input_error(error):
            raise InputError(message) from error
        raise
    finally:
        _load_plan.cache_clear()
        file.unlink(missing_ok=True)


def collect(shards: Sequence[Shard]) -> Written:
    """Reads the notes of shards and removes them."""
    image_ids: list[list[str]] = []
    counts: collections.Counter[str] = collections.Counter()
    for shard in shards:
        note = json.loads(_note(shard).read_text())
        image_ids.append(note["image_ids"])
        counts.update(note["counts"])
        _note(shard).unlink()
    return Written(image_ids, dict(counts))


def require_beam() -> Any:
    """The package apache_beam.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("apache_beam")
    except ImportError as error:
        raise InputError(
            "--beam_runner needs apache-beam, which is not installed: pip install 'vilbert-jax[beam]', in an "
            "environment of its own, because it holds other packages at older versions"
        ) from error


def _note(shard: Shard) -> epath.Path:
    return shard.path.parent / _NOTE.format(name=shard.path.name)


def _pipeline(beam: Any, config: tfds.download.DownloadConfig) -> Any:
    # Without options Beam would take those of our command line for its own.
    options = config.beam_options or beam.options.pipeline_options.PipelineOptions([])
    try:
        return beam.Pipeline(runner=config.beam_runner, options=options)
    except (ValueError, ImportError) as error:
        raise InputError(f"Beam cannot use runner {config.beam_runner} with the options given: {error}") from error


@functools.lru_cache(maxsize=1)  # a worker writes many shards of one data set
def _load_plan(file: str) -> Plan:
    return pickle.loads(epath.Path(file).read_bytes())


def _write_planned(number: int, file: str) -> None:
    _load_plan(file).write(number)


def _input_error(error: Exception) -> str | None:
    """The message of the InputError that a worker raised; from other processes it comes as part of a traceback."""
    text = str(error)
    if not isinstance(error, InputError):
        _, found, text = text.rpartition(f"{_INPUT_ERROR}: ")
        if not found:
            return None
    return _BEAM_CONTEXT.split(text, maxsplit=1)[0].strip()
