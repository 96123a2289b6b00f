"""Only one process builds a data set at a time, and it starts from nothing, whatever an interrupted build left."""

import contextlib
import errno
import fcntl
import os
import re
import socket
import sys
from collections.abc import Iterator
from typing import IO

from etils import epath

from vilbert_jax.errors import InputError

_LOCK = ".{version}.lock"
_NO_SPACE = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@contextlib.contextmanager
def sole_builder(folder: epath.Path) -> Iterator[None]:
    """Holds the right to build a data set; the system takes it back when this process ends, however it ends.

    What interrupted builds of the same data set left (TFDS's incomplete folders) is removed, and that is said.

    Args:
        folder: where the finished data set will lie, named after its version.

    Raises:
        InputError: another process is building it, or the folder is in no file system.
    """
    if "://" in os.fspath(folder):
        raise InputError(f"{folder} is in an object store; name a folder of a file system with --data_dir, and copy it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.parent / _LOCK.format(version=folder.name)
    with open(lock, "a+") as handle:
        if _lock(handle, folder):
            handle.truncate(0)
            print(f"process {os.getpid()} on {socket.gethostname()}", file=handle, flush=True)
            _remove_leftovers(folder)
        try:
            yield
        finally:
            handle.truncate(0)


@contextlib.contextmanager
def no_space_is_input_error(folder: epath.Path) -> Iterator[None]:
    """Turns the many errors of a full disk into one.

    Raises:
        InputError: there was no room to write.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError is what ArrayRecord raises
        said = next((text for text in _NO_SPACE if text in str(error)), None)
        if said is None:
            raise
        raise InputError(
            f"{folder} could not be written: {said}; make room, or write to another disk, and start the same "
            "command again"
        ) from error


def _lock(handle: IO[str], folder: epath.Path) -> bool:
    """Whether the lock is held; False where the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        holder = handle.read().strip() or "another process"
        raise InputError(f"{folder} is being built by {holder}; wait for it, or stop it first") from error
    except OSError as error:
        print(
            f"warning: {folder.parent} has no locks ({error.strerror}): see to it that nothing else builds there; "
            "what interrupted builds left there is not removed",
            file=sys.stderr,
        )
        return False
    return True


def _remove_leftovers(folder: epath.Path) -> None:
    made_by_tfds = re.compile(rf"incomplete\.[A-Z0-9]{{6}}_{re.escape(folder.name)}")
    for path in sorted(folder.parent.iterdir()):
        if made_by_tfds.fullmatch(path.name):
            print(f"found an interrupted build of {folder} ({path.name}), starting clean", file=sys.stderr)
            path.rmtree()
