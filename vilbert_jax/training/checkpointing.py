"""Checkpoints of a training run: asynchronous saves, verified restores.

Each is a folder as ``vilbert_jax.checkpoints.folder`` describes it. Our own files are written inside Orbax's temporary
folder, so a checkpoint is committed with them or not at all.
"""

import itertools
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from vilbert_jax.checkpoints.folder import STATE, find_damage, read_contents, shapes_of, write_contents
from vilbert_jax.errors import InputError
from vilbert_jax.sharding import agreed
from vilbert_jax.training.state import TrainState

_CORRUPT = ".corrupt"
_NOT_COMPARED = ("trained_for",)  # lengths may change in a run, and checkpoints of older versions do not state them

_logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in one folder; a context manager that waits for the running save on exit.

    Args:
        directory: created if absent. One numbered folder per completed-step count.
        keep: number of newest checkpoints to keep. An older one is deleted only after a newer one is committed.
        identity: JSON-like description of what the state belongs to (model config, feature contract, vocabulary).
        tokenizer_json: the vocabulary, kept with each checkpoint so that it can be used by itself.

    Attributes:
        provenance: JSON-like description of where the parameters come from; a restore brings back the saved one.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int,
        identity: Mapping[str, Any],
        tokenizer_json: str | None = None,
    ):
        if keep < 1:
            raise InputError(f"keep_checkpoints is {keep}; it must be at least 1.")
        self._directory = Path(directory).absolute()
        self._identity = json.loads(json.dumps(identity))  # as it reads back: tuples become lists
        self._tokenizer_json = tokenizer_json
        self.provenance: Mapping[str, Any] = {}
        self._shapes: dict[str, Any] = {}
        self._last_saved: int | None = None
        context = ocp.Context()
        # A lambda, because Orbax deep-copies the options, and with a bound method this whole object.
        context.async_options.post_finalization_callback = lambda: self._write_contents()
        self._orbax = ocp.training.Checkpointer(
            str(self._directory),
            context=context,
            # Orbax types the policies that it ships by another class than the protocol that it asks for.
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),  # pyright: ignore[reportArgumentType]
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._orbax.close()

    @property
    def steps(self) -> list[int]:
        """Steps with a committed checkpoint, ascending."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def save(self, step: int, state: TrainState) -> None:
        """Starts saving; returns as soon as the state may be overwritten. Saving the same step again does nothing."""
        if step == self._last_saved:
            return
        self._orbax.wait()  # the contents below belong to one save at a time
        self._shapes = shapes_of(state)
        self._orbax.save_checkpointables_async(step, {STATE: state}, force=True)
        self._last_saved = step

    def wait(self) -> None:
        """Blocks until the running save is committed."""
        self._orbax.wait()

    def restore(self, abstract_state: TrainState) -> TrainState | None:
        """Restores the newest intact checkpoint, or returns None where there is none at all.

        A damaged checkpoint is reported, renamed to ``<step>.corrupt``, and the one before it is used.

        Args:
            abstract_state: shapes, dtypes and shardings to restore to; the mesh may differ from the saved one.

        Raises:
            InputError: every checkpoint is damaged, or the run that wrote them has another identity or other arrays.
        """
        step, problems = self._newest_intact() if jax.process_index() == 0 else (-1, {})
        step, num_damaged = agreed(step), agreed(len(problems))
        if step < 0 and num_damaged == 0:
            return None
        if step < 0:
            raise InputError(
                f"no usable checkpoint in {self._directory}: "
                + "; ".join(f"step {step}: {problem}" for step, problem in problems.items())
                + ". Restore these files from a backup, or start again in another --workdir."
            )
        path = self._directory / str(step)
        check_matches(path, self._identity, abstract_state)
        if num_damaged:
            self._set_aside(problems, step)
        restored = ocp.load_checkpointables(str(path), {STATE: abstract_state})[STATE]
        self.provenance = read_contents(path).provenance
        self._last_saved = step
        return restored

    def _newest_intact(self) -> tuple[int, dict[int, str]]:
        """Its step (-1: none), and what is wrong with the newer ones."""
        problems: dict[int, str] = {}
        for step in reversed(self.steps):
            problem = find_damage(self._directory / str(step))
            if problem is None:
                return step, problems
            problems[step] = problem
        return -1, problems

    def _set_aside(self, damaged: Mapping[int, str], used: int) -> None:
        """Renames damaged checkpoints so that they neither block their step nor count as kept ones."""
        for step, problem in damaged.items():
            target = set_aside(self._directory / str(step))
            _logger.warning(
                "checkpoint of step %d is damaged (%s); set aside as %s. Continuing from step %d.",
                step, problem, target.name, used,
            )  # fmt: skip
        agreed(0)  # the other hosts wait here for the first one's renaming
        self._orbax.reload()

    def _write_contents(self) -> None:
        """Called by Orbax in its thread when all files are written, just before it renames the folder into place."""
        if jax.process_index() != 0:
            return
        (folder,) = (path for path in self._directory.iterdir() if ".orbax-checkpoint-tmp" in path.name)
        write_contents(
            folder,
            identity=self._identity,
            provenance=self.provenance,
            shapes=self._shapes,
            tokenizer_json=self._tokenizer_json,
        )


def set_aside(folder: Path) -> Path:
    """Renames a damaged checkpoint, so that it is no longer found but not lost; returns the new path."""
    names = (f"{folder.name}{_CORRUPT}{number if number > 1 else ''}" for number in itertools.count(1))
    return folder.rename(next(folder.with_name(name) for name in names if not folder.with_name(name).exists()))


def check_matches(path: Path, identity: Mapping[str, Any], abstract_state: Any) -> None:
    """Raises InputError if the checkpoint at ``path`` belongs to another run than ``identity`` or has other arrays."""
    contents = read_contents(path)
    saved, wanted = (_compared(one) for one in (contents.identity, json.loads(json.dumps(identity))))
    if saved == wanted:
        saved, wanted = contents.shapes, shapes_of(abstract_state)
    names = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    if names:
        lines = [f"  {name}: checkpoint {_show(saved, name)}, this run {_show(wanted, name)}" for name in names[:10]]
        more = [f"  and {len(names) - 10} more"] if len(names) > 10 else []
        raise InputError(
            "\n".join([f"{path} was written by another configuration:", *lines, *more])
            + "\nUse another --workdir for this configuration, or go back to the one of the checkpoint."
        )


def _compared(identity: Mapping[str, Any]) -> dict[str, Any]:
    return _flatten({name: value for name, value in identity.items() if name not in _NOT_COMPARED})


def _show(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name]) if name in fields else "has none"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> {"model.width": 768}."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else key)
    return flat
