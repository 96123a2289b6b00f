"""How every command line of the project starts, fails and exits.

Exit codes: 0 done (also when asked to stop and the work was saved), 1 the run failed, 2 the input cannot be used: one
message on stderr, no traceback.
"""

import dataclasses
import difflib
import importlib
import importlib.metadata
import pathlib
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from absl import flags as absl_flags
from ml_collections import ConfigDict, config_flags

from vilbert_jax import hosts
from vilbert_jax.data.examples import ExamplesConfig
from vilbert_jax.errors import InputError
from vilbert_jax.launch import HostsConfig
from vilbert_jax.tasks.task import Task
from vilbert_jax.training.logging import NonFiniteError

T = TypeVar("T")

_PLAN = {"plan": "Print what the run would cost instead of running it; docs/planning.md."}
_RATES = {"rates": "With --plan: what a device does a second, flops=F,memory_rate=B,link_rate=B,memory=BYTES."}


def run(
    main: Callable[..., int | None],
    argv: Sequence[str] | None = None,
    *,
    folder: str = "workdir",
    ending: str = "",
    flags: Mapping[str, str] | None = None,
    recipe: tuple[str, str] | None = None,
    trains: bool = False,
) -> None:
    """Parses ``--config=FILE[:ARG]``, ``--config.KEY=VALUE`` and the other flags, then runs ``main`` and exits.

    Args:
        main: called with the locked ``ConfigDict``, the folder to write to (default ``runs/<config name><ending>``),
            and the further flags as text by name; returns the exit code, None meaning 0.
        argv: program name and arguments; ``sys.argv`` when absent.
        folder: name of the flag that says where to write.
        ending: of the folder's default name.
        flags: what further flags are for, by name; one that is not given is empty.
        recipe: a key that only recipes for this program have, and which recipes those are.
        trains: the program may run as several processes, which are joined first (``vilbert_jax.hosts``), and ``main``
            takes, as a third argument, what to call in place of ``train``. With ``--plan`` that only notes what it is
            given and returns None, and a plan is printed.
    """

    def parsed() -> int | None:
        given = sys.argv if argv is None else argv
        switches = _PLAN if trains else {}
        more = {**(flags or {}), **(_RATES if trains else {})}
        config, path, further = parse(given, folder=folder, ending=ending, flags=more, switches=switches)
        if recipe is not None and recipe[0] not in config:
            raise InputError(
                f"this config has no entry {recipe[0]!r}, so it is for another program: "
                f"{pathlib.Path(given[0]).name} takes {recipe[1]}"
            )
        if "hosts" in config:
            launched = HostsConfig(**config.to_dict()["hosts"])
            if not trains:
                hosts.require_alone(launched)
            hosts.join(launched)
            hosts.require_same(_recipe(config))
        if not trains:
            return main(config, path, **further)
        return _run_or_plan(main, config, path, **further)

    guarded(parsed)


def _run_or_plan(main: Callable[..., int | None], config: ConfigDict, path: pathlib.Path, **further: Any) -> int | None:
    plan, rates = further.pop("plan"), further.pop("rates")
    if plan:
        from vilbert_jax.planning.command import print_plan  # here, since other programs need none of it

        return print_plan(lambda changed, note: main(changed, path, note, **further), config, rates)
    if rates:
        raise InputError("--rates tells a plan what devices do: add --plan, or leave it out")
    return main(config, path, **further)


def guarded(main: Callable[[], int | None]) -> None:
    """Runs ``main`` and exits: with its code (None meaning 0), or one message for an error that users can act on."""
    said = ""
    try:
        code = main() or 0
        hosts.leave(code)
    except InputError as error:
        code, said = 2, f"error: {error}"
    except OSError as error:
        hosts.blame()
        code, said = 2, f"error: {error}. Check the path and the space left on its disk."
    except KeyboardInterrupt:
        code, said = 130, "interrupted; what was saved before is kept."
    except NonFiniteError as error:
        code, said = 1, f"stopped: {error}"
    except Exception as error:
        if not hosts.joined():
            raise
        hosts.blame()
        traceback.print_exc()
        code, said = 1, f"stopped: {type(error).__name__}: {error}"
    if said:
        print(said, file=sys.stderr, flush=True)
        hosts.leave(code, said)
    sys.exit(code)


def parse(
    argv: Sequence[str],
    *,
    folder: str = "workdir",
    ending: str = "",
    flags: Mapping[str, str] | None = None,
    switches: Mapping[str, str] | None = None,
) -> tuple[ConfigDict, pathlib.Path, dict[str, Any]]:
    """Reads the flags; see ``run``.

    Raises:
        InputError: for a config that cannot be loaded, a key that it does not have, a value of the wrong type, or any
            other argument.
    """
    helps = {folder: "Where results go.", **(flags or {})}
    others = " ".join([*(f"[--{name}=...]" for name in helps), *(f"[--{name}]" for name in switches or {})])
    usage = f"usage: {argv[0]} --config=FILE[:ARG] [--config.KEY=VALUE ...] {others}"
    name = next((a.partition("=")[2].removesuffix(":") for a in argv if a.startswith("--config=")), None)
    if name is None:
        found = "--config is followed by a space: write --config=FILE" if "--config" in argv else "--config is missing"
        raise InputError(f"{found}\n{usage}")
    _check_keys(_load(name), [a.removeprefix("--config.") for a in argv if a.startswith("--config.")])
    values = absl_flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=list(argv))
    for flag, purpose in helps.items():
        absl_flags.DEFINE_string(flag, "", purpose, flag_values=values)
    for switch, purpose in (switches or {}).items():
        absl_flags.DEFINE_bool(switch, False, purpose, flag_values=values)
    try:
        rest = values(list(argv))[1:]
        config = holder.value
    except (absl_flags.Error, TypeError, ValueError) as error:
        raise InputError(f"{error}\n{usage}") from error
    if rest:
        raise InputError(f"arguments not understood: {' '.join(rest)}\n{usage}")
    path, _, argument = name.partition(":")
    stem = pathlib.Path(path).stem + (f"-{argument}" if argument else "")
    further: dict[str, Any] = {flag: str(values[flag].value) for flag in helps if flag != folder}
    further |= {switch: bool(values[switch].value) for switch in switches or {}}
    return config, pathlib.Path(values[folder].value or pathlib.Path("runs", stem + ending)), further


def build_task(config: ConfigDict) -> Task:
    """The task that ``config.task`` names, ``module:Class``, with the entries of the config that are its fields.

    Raises:
        InputError: no such module or class.
    """
    module, _, name = str(config.task).partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"config.task {config.task!r} cannot be loaded ({error}): write module:Class, such as "
            "vilbert_jax.tasks.vqa:VQA; a module of your own must be in vilbert_jax/tasks or on PYTHONPATH"
        ) from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise InputError(f"config.task {config.task!r} names a {type(cls).__name__}, not a task: a task is a dataclass")
    if "data" not in {field.name for field in dataclasses.fields(cls)}:
        raise InputError(f"config.task {config.task!r} names a dataclass without a field data, not a task")
    return cast(Task, build(cls, config, data=build(ExamplesConfig, config)))


def build(cls: Callable[..., T], config: ConfigDict, **more: Any) -> T:
    """The dataclass ``cls`` from the entries of a flat config that are its fields, and ``more``."""
    names = [field.name for field in dataclasses.fields(cast(Any, cls))]
    return cls(**{name: config[name] for name in names if name in config} | more)


def _recipe(config: ConfigDict) -> dict[str, Any]:
    """What the hosts of a run must have in common. Where the data lie may differ; what they are is compared later."""
    versions = {package: importlib.metadata.version(package) for package in ("vilbert-jax", "jax", "jaxlib")}
    recipe = {name: value for name, value in config.to_dict().items() if name not in ("hosts", "data_dir")}
    return {"version": versions, "config": recipe}


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
