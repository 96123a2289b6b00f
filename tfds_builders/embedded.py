"""Builds the embedded data sets that are missing, so that a first run needs no preparation."""

import contextlib
import fcntl
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

from tfds_builders import scenes
from vilbert_jax.errors import InputError

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_SCENES_A_SECOND = {"regions": 120, "pictures": 130}  # about, and one process; language is faster
_LANGUAGE_A_SECOND = 400


def ensure(names: Iterable[str], data_dir: str | os.PathLike[str]) -> None:
    """Builds those of the named configs that `data_dir` does not have yet, and says so on stderr.

    Safe when several processes ask at once: one builds, the others wait and find it done. Building happens in a
    process of its own, because the caller may hold threads and devices.

    Args:
        names: for example "scenes/regions_small".
        data_dir: TFDS data directory; made if it does not exist.

    Raises:
        InputError: a name that is no embedded data set, or the build failed.
    """
    configs = {f"scenes/{config.name}": config for config in scenes.Builder.BUILDER_CONFIGS}
    wanted = list(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in configs]:
        raise InputError(f"{', '.join(unknown)}: no such embedded data set; there are {', '.join(configs)}")
    folder = pathlib.Path(data_dir).expanduser().resolve()
    if not _missing(wanted, folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder / ".embedded.lock"):
        missing = _missing(wanted, folder)  # another process may have built them while we waited
        if missing:
            _build(missing, folder, sum(_seconds(configs[name]) for name in missing))


def _missing(names: Iterable[str], folder: pathlib.Path) -> list[str]:
    return [name for name in names if not (folder / name / str(scenes.Builder.VERSION) / "dataset_info.json").exists()]


def _build(names: list[str], folder: pathlib.Path, seconds: float) -> None:
    print(f"building {', '.join(names)} in {folder}: about {_duration(seconds)}", file=sys.stderr, flush=True)
    start = time.monotonic()
    command = [sys.executable, "-m", "tfds_builders.build", *names, f"--data_dir={folder}"]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise InputError(
            f"building {', '.join(names)} failed with exit code {done.returncode} (its messages are above); "
            f"try it alone: {' '.join(command[2:])}"
        )
    print(f"built in {_duration(time.monotonic() - start)}", file=sys.stderr, flush=True)


def _seconds(config: scenes.ScenesConfig) -> float:
    """A rough guess, to tell whether to wait or to have a coffee."""
    kind = "regions" if config.annotation is None else config.annotation.name
    speed = _SCENES_A_SECOND.get(kind, _LANGUAGE_A_SECOND) * scenes.available_processes()
    return 3 + sum(config.counts.values()) / speed


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


@contextlib.contextmanager
def _only_one(file: pathlib.Path) -> Iterator[None]:
    """Holds a lock that the system releases when this process ends, however it ends."""
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
