"""How every command line of the project starts, fails and exits.

Exit codes: 0 done (also when asked to stop and the work was saved), 1 the run failed, 2 the input cannot be used: one
message on stderr, no traceback.
"""

import dataclasses
import difflib
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vilbert_jax.errors import InputError
from vilbert_jax.training.logging import NonFiniteError


def run(main: Callable[[ConfigDict, pathlib.Path], int | None], argv: Sequence[str] | None = None) -> None:
    """Parses ``--config=FILE[:ARG]``, ``--config.KEY=VALUE`` and ``--workdir=DIR``, then runs ``main`` and exits.

    Args:
        main: called with the locked config and the work directory (default ``runs/<config name>``); returns the exit
            code, None meaning 0.
        argv: program name and arguments; ``sys.argv`` when absent.
    """
    try:
        config, workdir = parse(sys.argv if argv is None else argv)
        code = main(config, workdir)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except NonFiniteError as error:
        print(f"stopped: {error}", file=sys.stderr)
        code = 1
    sys.exit(code or 0)


def parse(argv: Sequence[str]) -> tuple[ConfigDict, pathlib.Path]:
    """Reads the flags.

    Raises:
        InputError: for a config that cannot be loaded, a key that it does not have, a value of the wrong type, or any
            other argument.
    """
    usage = f"usage: {argv[0]} --config=FILE[:ARG] [--config.KEY=VALUE ...] [--workdir=DIR]"
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    flags.DEFINE_string("workdir", None, "Where checkpoints and logs go.", flag_values=values)
    try:
        rest = values(list(argv))[1:]
        config = holder.value
    except AttributeError as error:  # how ConfigDict reports a key it lacks
        raise _unknown_key(argv) from error
    except (flags.Error, TypeError, ValueError, ImportError, SyntaxError, OSError) as error:
        raise InputError(f"{error}\n{usage}") from error
    if config is None or rest:
        found = "--config is missing" if config is None else f"arguments not understood: {' '.join(rest)}"
        raise InputError(f"{found}\n{usage}")
    name = config_flags.get_config_filename(values["config"])
    stem, _, argument = pathlib.Path(name).name.partition(":")
    stem = stem.removesuffix(".py") + (f"-{argument}" if argument else "")
    return config, pathlib.Path(values["workdir"].value or pathlib.Path("runs", stem))


def fields_for(cls: type, config: ConfigDict) -> dict[str, Any]:
    """The entries of a flat config that are fields of the dataclass ``cls``."""
    return {field.name: config[field.name] for field in dataclasses.fields(cls) if field.name in config}


def _unknown_key(argv: Sequence[str]) -> InputError:
    """Finds out which ``--config.KEY`` does not exist, by loading the config file without overrides."""
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    values([argv[0], *(a for a in argv[1:] if a.startswith("--config="))])
    keys = list(_dotted_keys(holder.value))
    asked = [a.removeprefix("--config.").partition("=")[0] for a in argv[1:] if a.startswith("--config.")]
    unknown = [key for key in asked if key not in keys]
    lines = []
    for key in unknown:
        near = difflib.get_close_matches(key, keys, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"keys: {', '.join(keys)}"
        lines.append(f"--config.{key} does not exist in this config; {hint}")
    return InputError("\n".join(lines))


def _dotted_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        keys.append(prefix + key)
        if isinstance(value, ConfigDict):
            keys += _dotted_keys(value, f"{prefix}{key}.")
    return keys
