"""The best parameters of a run so far, kept beside its checkpoints: ``RUN/best/<step>``.

A folder as ``vilbert_jax.checkpoints.folder`` describes it, without optimizer state. Each step has a folder of its own
because a folder can appear, but not be replaced, in one instant: the new one is moved into place when it is complete,
and only then the old one removed, so that a kill at any moment leaves one of them whole.
"""

import json
import logging
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from vilbert_jax.checkpoints.folder import find_damage, read_contents
from vilbert_jax.checkpoints.saving import write_folder
from vilbert_jax.errors import InputError
from vilbert_jax.sharding import agreed
from vilbert_jax.training.checkpointing import check_matches, set_aside
from vilbert_jax.training.state import Params

SELECTED = "selected"  # in the provenance: evaluation, metric, value and step that the parameters were chosen by

_logger = logging.getLogger(__name__)


class Selection(NamedTuple):
    """Which metric of which evaluation chooses the best parameters; higher is better."""

    evaluation: str
    metric: str

    def __str__(self) -> str:
        return f"{self.evaluation}/{self.metric}"


def check_selection(selection: Selection | None, evaluations: Iterable[str], *, patience: int) -> None:
    """Raises InputError if there is no such evaluation, or patience without a metric that could improve."""
    if selection is None and patience:
        raise InputError(f"patience is {patience}, but the run selects by no metric: set patience=0, or a selection.")
    if selection is not None and selection.evaluation not in evaluations:
        raise InputError(
            f"the run selects by {selection}, but its evaluations are {', '.join(sorted(evaluations))}: choose one."
        )


class BestCheckpoint:
    """Keeps the parameters with the highest value of a metric.

    Args:
        directory: created when there is something to keep.
        selection: the metric.
        identity: JSON-like description of what the parameters belong to (model config, feature contract, vocabulary).
        abstract_params: shapes and dtypes of the parameters.
        tokenizer_json: the vocabulary, kept with the parameters so that they can be used by themselves.

    Attributes:
        selection: the metric.
        step: completed steps at the best evaluation so far, as the folder says; None before the first.
        value: its value of the metric.

    Raises:
        InputError: the folder belongs to another configuration or was selected by another metric.
    """

    def __init__(
        self,
        directory: Path,
        selection: Selection,
        *,
        identity: Mapping[str, Any],
        abstract_params: Params,
        tokenizer_json: str | None = None,
    ):
        self.step: int | None = None
        self.value = -math.inf
        self._directory = directory.absolute()
        self.selection = selection
        self._identity = json.loads(json.dumps(identity))  # as it reads back: tuples become lists
        self._tokenizer_json = tokenizer_json
        if jax.process_index() == 0:
            self._clear_up()
        agreed(0)  # the other hosts wait for it
        if not self._folders():
            return
        (path,) = self._folders()
        check_matches(path, identity, {"params": abstract_params})
        selected = read_contents(path).provenance.get(SELECTED, {})
        found = Selection(selected.get("evaluation", "?"), selected.get("metric", "?"))
        if found != selection:
            raise InputError(
                f"{path} was selected by {found}, this run selects by {selection}, which cannot be compared: remove "
                f"{self._directory}, go back to {found}, or use another --workdir."
            )
        self.step, self.value = selected["step"], selected["value"]

    def __str__(self) -> str:
        return f"the best {self.selection} is {self.value:.6g}, of step {self.step}"

    def offer(self, step: int, params: Params, metrics: Mapping[str, float], provenance: Mapping[str, Any]) -> None:
        """Keeps ``params`` in place of what is kept if they are strictly better; returns when they are on the disk.

        Args:
            step: completed steps.
            params: the parameters.
            metrics: what the selected evaluation measured, finite.
            provenance: JSON-like description of where the parameters come from.

        Raises:
            InputError: the evaluation has no such metric.
            OSError: they cannot be written; what was kept is still there.
        """
        if self.selection.metric not in metrics:
            raise InputError(
                f"the run selects by {self.selection}, but {self.selection.evaluation} measures "
                f"{', '.join(sorted(metrics))}: choose one of these."
            )
        value = float(metrics[self.selection.metric])
        if not agreed(value > self.value):
            return
        is_first, target = jax.process_index() == 0, self._directory / str(step)
        if is_first and target.exists():  # the same step with other settings; 08 is as good a name to be found by as 8
            target.rename(target.with_name(f"0{target.name}"))
        write_folder(
            target,
            {"params": params},
            identity=self._identity,
            provenance={**provenance, SELECTED: {**self.selection._asdict(), "value": value, "step": step}},
            tokenizer_json=self._tokenizer_json,
        )
        if is_first:
            self._remove_all_but(target)
        self.step, self.value = step, value

    def num_evaluations_since(self, step: int, eval_every: int) -> int:
        """How many evaluations up to ``step`` did not improve on the best one.

        A function of steps alone: a resumed run counts the same.
        """
        return 0 if self.step is None else max(0, step // eval_every - self.step // eval_every)

    def _folders(self) -> list[Path]:
        """Highest step first; two only if a kill came between the new one's arrival and the old one's removal."""
        folders = [path for path in self._directory.glob("*") if path.name.isdigit()]
        return sorted(folders, key=lambda path: int(path.name), reverse=True)

    def _remove_all_but(self, kept: Path) -> None:
        for folder in self._folders():
            if folder != kept:
                shutil.rmtree(folder)

    def _clear_up(self) -> None:
        """Leaves the newest intact folder alone; sets damaged ones aside and removes what a kill left half written."""
        for part in self._directory.glob(".*.part"):
            shutil.rmtree(part)
        for folder in self._folders():
            problem = find_damage(folder)
            if problem is None:
                self._remove_all_but(folder)
                return
            target = set_aside(folder)
            _logger.warning(
                "the best checkpoint %s is damaged (%s); set aside as %s, and the run chooses anew.",
                folder, problem, target.name,
            )  # fmt: skip
