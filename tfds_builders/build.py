"""Builds our data sets without TensorFlow.

    python tfds_builders/build.py NAME[/CONFIG] ... [options of `tfds build`]

NAME is a data set of this project (for example scenes) or a path to a data-set folder elsewhere. Without --config,
and without /CONFIG, all configs are built. --data_dir is where data sets go (default: $TFDS_DATA_DIR or
~/tensorflow_datasets), --manual_dir where files lie that had to be downloaded by hand. --beam_runner=DirectRunner or
another lets the workers of an Apache Beam runner write the shards.

    python tfds_builders/build.py region_features --source=PATH --config=NAME --contract=DETECTOR [...]

imports a dump of region features into the store region_features/NAME.

    python tfds_builders/build.py vqa_v2 --answers=FILE [...]

takes the answer labels from a file instead of making them from the questions.

    python tfds_builders/build.py inspect PATH      # what is in a data set on disk, and a picture of one record
    python tfds_builders/build.py verify PATH       # is anything in it damaged?
"""

import dataclasses
import importlib
import json
import pathlib
import sys
from collections.abc import Sequence

IMPORTER = "region_features"
ANSWERED = "vqa_v2"
ROOT = pathlib.Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Run as a script, Python looks for imports in this file's folder; ours start at the folder above.
    sys.path[0] = str(ROOT)

from absl import logging  # noqa: E402
from tensorflow_datasets.scripts.cli import build, cli_utils  # noqa: E402

from tfds_builders import shard_writing  # noqa: E402
from vilbert_jax.errors import InputError  # noqa: E402


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of region_features; what a dump tells is not asked for."""

    source: str | None = None
    """The dump: file, folder, or a pattern of files of one format ('DIR/*.tsv'). Its format is recognised."""

    contract: str | None = None
    """Which detector made the features: a preset's name or a JSON file. Without it the presets are listed."""

    image_sizes: str | None = None
    """Sizes of the pictures, JSON {id: [width, height]} or lines of id, width, height; replaces those of the dump."""

    background: str | None = None
    """Where the background class is in the dump: first, last or absent."""

    storage: str = "int8"
    """How features are kept: int8 with a scale a region, or float16."""

    class_storage: str = "top_k"
    """How class probabilities are kept: top_k, float16, or rebuilt from the features."""

    top_k: int = 100
    """Classes kept a region, with --class_storage=top_k."""

    classifier: str | None = None
    """The detector's last layer, for --class_storage=rebuilt: safetensors with weight [C,F] and bias [C]."""

    image_ids: str = "as_written"
    """as_written, or numbers: COCO_val2014_000000000042 becomes 42."""

    max_outside: float = 0.05
    """Share of the picture's side by which a box may lie outside; it is clipped, beyond that refused."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args(build.Args):
    """Arguments of `tfds build`, and those of imports."""

    beam_runner: str | None = None
    """Apache Beam runner that writes the shards, for example DirectRunner; its options: --beam_pipeline_options."""

    answers: str | None = None
    """Answer labels of vqa_v2: JSON list of the answers, JSON {answer: label}, or a pickle of either."""

    regions: ImportOptions = dataclasses.field(default_factory=ImportOptions)


def main(argv: Sequence[str]) -> int:
    """Builds, inspects or verifies what the command line names; the exit code (2: the input cannot be used)."""
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every folder that is still to be filled
    try:
        if argv[1:2] == ["inspect"]:
            from tfds_builders import inspect_store  # brings matplotlib, which building does not need

            return inspect_store.main(argv[2:])
        if argv[1:2] == ["verify"]:
            from tfds_builders import verify_store

            return verify_store.main(argv[2:])
        for args in parse(argv):
            args.execute()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str]) -> list[Args]:
    """Command line (program name first) to one set of `tfds build` arguments a data set.

    Raises:
        InputError: no data set, or a data set or config that does not exist.
    """
    arguments = list(argv)
    if not any(a.split("=")[0] == "--file_format" for a in arguments):
        arguments.append("--file_format=array_record")  # tfrecord, the default, needs TensorFlow
    args = cli_utils.make_flags_parser(Args, description=__doc__ or "")(arguments)
    names = args.positional_datasets + args.datasets
    if not names:
        raise InputError(f"no data set named; there are {', '.join(our_data_sets())}")
    args = _with_beam(args)
    return [_for_one(name, args) for name in names]


def _with_beam(args: Args) -> Args:
    """Hands the Beam runner to TFDS, whose own command line has only an option for the runner's options."""
    generation = args.generation
    if args.beam_runner is None:
        if generation.beam_pipeline_options:
            raise InputError("--beam_pipeline_options are for --beam_runner=NAME, for example DirectRunner; name it")
        return args
    shard_writing.require_beam()
    options = [f"runner={args.beam_runner}", *filter(None, [generation.beam_pipeline_options])]
    download = {**json.loads(generation.download_config or "{}"), "beam_runner": args.beam_runner}
    generation = dataclasses.replace(
        generation, beam_pipeline_options=",".join(options), download_config=json.dumps(download)
    )
    return dataclasses.replace(args, generation=generation)


def our_data_sets() -> list[str]:
    """Names of this project's data sets."""
    folders = pathlib.Path(__file__).resolve().parent.iterdir()
    return sorted(f.name for f in folders if (f / f"{f.name}_dataset_builder.py").exists())


def _for_one(name: str, args: Args) -> Args:
    """The arguments that build one data set; ours are imported as packages, folders elsewhere are left to TFDS."""
    path = pathlib.Path(name).expanduser()
    folder = path.resolve()
    if folder.parent == ROOT / "tfds_builders" and folder.is_dir():
        name = folder.name
    data_set, _, config = name.partition("/")
    if data_set not in our_data_sets():
        if args.generation.imports or path.exists():
            return dataclasses.replace(args, positional_datasets=[name], datasets=[])
        raise InputError(f"there is no data set {name!r}; there are {', '.join(our_data_sets())}")
    module = f"tfds_builders.{data_set}"
    configs = [c.name for c in importlib.import_module(module).Builder.BUILDER_CONFIGS]
    wanted = [c for c in (config, args.generation.config) if c]
    if len(wanted) > 1:
        raise InputError(f"the config is named twice, {' and '.join(wanted)}; name it once")
    given = args.generation.config
    if args.answers is not None:
        name = _with_answers(name, data_set, args.answers)
    if args.regions.source or data_set == IMPORTER:
        given, name = _import_config(data_set, wanted, args.regions), data_set
    elif wanted and wanted[0] not in configs:
        raise InputError(f"{data_set} has no config {wanted[0]!r}; it has {', '.join(configs) or 'none'}")
    imports = ",".join(filter(None, [args.generation.imports, module]))
    generation = dataclasses.replace(args.generation, imports=imports, config=given)
    return dataclasses.replace(args, positional_datasets=[name], datasets=[], generation=generation)


def _with_answers(name: str, data_set: str, file: str) -> str:
    """A data set's name as TFDS takes it with an argument of its builder."""
    if data_set != ANSWERED:
        raise InputError(f"--answers is for {ANSWERED} alone, not for {data_set}")
    path = str(pathlib.Path(file).expanduser().resolve())
    if "," in path or "=" in path:
        raise InputError(f"--answers={file}: TFDS takes no path with ',' or '=' here ({path}); copy the file elsewhere")
    return f"{name}/answers={path}"


def _import_config(data_set: str, wanted: Sequence[str], options: ImportOptions) -> str:
    """A config of the importer as TFDS takes it from a command line: JSON."""
    if data_set != IMPORTER:
        raise InputError(f"--source is for {IMPORTER} alone, not for {data_set}")
    if not wanted or not options.source:
        raise InputError(
            f"{IMPORTER} needs --source=PATH, the dump, and --config=NAME, the name of the store that becomes of it"
        )
    return json.dumps({"name": wanted[0], **dataclasses.asdict(options)})


if __name__ == "__main__":
    sys.exit(main(sys.argv))
