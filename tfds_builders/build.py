"""Builds our data sets without TensorFlow.

    python tfds_builders/build.py NAME[/CONFIG] ... [options of `tfds build`]

NAME is a data set of this project (for example scenes) or a path to a data-set folder elsewhere. Without --config,
and without /CONFIG, all configs are built. --data_dir is where data sets go (default: $TFDS_DATA_DIR or
~/tensorflow_datasets), --manual_dir where files lie that had to be downloaded by hand.
"""

import dataclasses
import importlib
import pathlib
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Run as a script, Python looks for imports in this file's folder; ours start at the folder above.
    sys.path[0] = str(ROOT)

from absl import logging  # noqa: E402
from tensorflow_datasets.scripts.cli import build, cli_utils  # noqa: E402

from vilbert_jax.errors import InputError  # noqa: E402


def main(argv: Sequence[str]) -> int:
    """Builds what the command line names; returns the exit code (2: the input cannot be used)."""
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every folder that is still to be filled
    try:
        for args in parse(argv):
            args.execute()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str]) -> list[build.Args]:
    """Command line (program name first) to one set of `tfds build` arguments a data set.

    Raises:
        InputError: no data set, or a data set or config that does not exist.
    """
    arguments = list(argv)
    if not any(a.split("=")[0] == "--file_format" for a in arguments):
        arguments.append("--file_format=array_record")  # tfrecord, the default, needs TensorFlow
    args = cli_utils.make_flags_parser(build.Args, description=__doc__ or "")(arguments)
    names = args.positional_datasets + args.datasets
    if not names:
        raise InputError(f"no data set named; there are {', '.join(our_data_sets())}")
    return [_for_one(name, args) for name in names]


def our_data_sets() -> list[str]:
    """Names of this project's data sets."""
    folders = pathlib.Path(__file__).resolve().parent.iterdir()
    return sorted(f.name for f in folders if (f / f"{f.name}_dataset_builder.py").exists())


def _for_one(name: str, args: build.Args) -> build.Args:
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
    if wanted and wanted[0] not in configs:
        raise InputError(f"{data_set} has no config {wanted[0]!r}; it has {', '.join(configs) or 'none'}")
    imports = ",".join(filter(None, [args.generation.imports, module]))
    generation = dataclasses.replace(args.generation, imports=imports)
    return dataclasses.replace(args, positional_datasets=[name], datasets=[], generation=generation)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
