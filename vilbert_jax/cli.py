"""How every command line of the project starts, fails and exits.

Exit codes: 0 done (also when asked to stop and the work was saved), 1 the run failed, 2 the input cannot be used: one
message on stderr, no traceback.
"""

import dataclasses
import difflib
import pathlib
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from absl import flags
from ml_collections import ConfigDict, config_flags

from vilbert_jax.errors import InputError
from vilbert_jax.training.logging import NonFiniteError

T = TypeVar("T")


def run(main: Callable[[Any, pathlib.Path], int | None], argv: Sequence[str] | None = None) -> None:
    """Parses ``--config=FILE[:ARG]``, ``--config.KEY=VALUE`` and ``--workdir=DIR``, then runs ``main`` and exits.

    Args:
        main: called with the locked ``ConfigDict`` and the work directory (default ``runs/<config name>``); returns
            the exit code, None meaning 0.
        argv: program name and arguments; ``sys.argv`` when absent.
    """

    def parsed() -> int | None:
        config, workdir = parse(sys.argv if argv is None else argv)
        return main(config, workdir)

    guarded(parsed)


def guarded(main: Callable[[], int | None]) -> None:
    """Runs ``main`` and exits: with its code (None meaning 0), or one message for an error that users can act on."""
    try:
        code = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        print(f"error: {error}. Check the path and the space left on its disk.", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted before there was anything to save.", file=sys.stderr)
        code = 130
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
    name = next((a.partition("=")[2].removesuffix(":") for a in argv if a.startswith("--config=")), None)
    if name is None:
        raise InputError(f"--config is missing\n{usage}")
    _check_keys(_load(name), [a.removeprefix("--config.") for a in argv if a.startswith("--config.")])
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=list(argv))
    flags.DEFINE_string("workdir", None, "Where checkpoints and logs go.", flag_values=values)
    try:
        rest = values(list(argv))[1:]
        config = holder.value
    except (flags.Error, TypeError, ValueError) as error:
        raise InputError(f"{error}\n{usage}") from error
    if rest:
        raise InputError(f"arguments not understood: {' '.join(rest)}\n{usage}")
    path, _, argument = name.partition(":")
    stem = pathlib.Path(path).stem + (f"-{argument}" if argument else "")
    return config, pathlib.Path(values["workdir"].value or pathlib.Path("runs", stem))


def build(cls: Callable[..., T], config: ConfigDict, **more: Any) -> T:
    """The dataclass ``cls`` from the entries of a flat config that are its fields, and ``more``."""
    names = [field.name for field in dataclasses.fields(cast(Any, cls))]
    return cls(**{name: config[name] for name in names if name in config} | more)


def _load(name: str) -> ConfigDict:
    """The config without overrides; here for its errors, which config_flags wraps in tracebacks."""
    path, _, argument = name.partition(":")
    if not pathlib.Path(path).is_file():
        raise InputError(f"there is no config file {path!r} here; the recipes are in the configs folder of the project")
    try:
        config = runpy.run_path(path)["get_config"](*([argument] if argument else []))
    except InputError:
        raise
    except Exception as error:  # a config file is the user's code and may fail in any way
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{name} cannot be used as a config: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{name} cannot be used as a config: get_config returned a {type(config).__name__}")
    return config


def _check_keys(config: ConfigDict, overrides: Sequence[str]) -> None:
    keys = _dotted_keys(config)
    problems = []
    for key in (override.partition("=")[0] for override in overrides):
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"keys: {', '.join(keys)}"
            problems.append(f"--config.{key} does not exist in this config; {hint}")
    if problems:
        raise InputError("\n".join(problems))


def _dotted_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        keys.append(prefix + key)
        if isinstance(value, ConfigDict):
            keys += _dotted_keys(value, f"{prefix}{key}.")
    return keys
