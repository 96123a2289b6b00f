"""From a grid to the runs that fill it, and from what they leave behind to its values.

Pre-training, fine-tuning and evaluation are runs of their own; runs of equal commands are one. Folders, below that of
the grid and named after the first variant and column that need them: ``seed0/VARIANT/pretraining``,
``seed0/VARIANT/COLUMN/training``, ``seed0/VARIANT/COLUMN/evaluation``.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vilbert_jax.ablation.grid import Column, Grid, Value, Variant
from vilbert_jax.ablation.runs import Run, RunStatus
from vilbert_jax.evaluation.results import METRICS

PRETRAIN, FINETUNE = "experiments/pretrain.py", "experiments/finetune.py"
# What a training draws at its very end; one that was asked to stop does not.
_PRETRAINED, _FINETUNED = "examples.png", "report.png"


class Cell(NamedTuple):
    """Where one value of the grid comes from."""

    variant: str
    column: str
    seed: int


class Plan(NamedTuple):
    """The runs of a grid.

    Attributes:
        runs: by name, in order of preference: a seed after the other, a variant after the other.
        evaluations: of every cell the run that gives it its value; None where there is nothing to evaluate.
    """

    runs: dict[str, Run]
    evaluations: dict[Cell, str | None]

    def needed(self, variants: Iterable[Variant], columns: Iterable[Column]) -> list[Run]:
        """The runs of some cells, and those that they need."""
        rows, names = {v.name for v in variants}, {c.name for c in columns}
        waiting = [
            run for cell, run in self.evaluations.items() if cell.variant in rows and cell.column in names and run
        ]
        wanted: set[str] = set()
        while waiting:
            wanted.add(name := waiting.pop())
            waiting += [need for need in self.runs[name].needs if need not in wanted]
        return [run for name, run in self.runs.items() if name in wanted]


def make_plan(grid: Grid, folder: Path, data_dir: Path) -> Plan:
    """Expands a grid.

    Names do not depend on which seeds, variants or columns are asked for.

    Args:
        grid: all of it.
        folder: of the grid, absolute.
        data_dir: TFDS folder, absolute.
    """
    planner = _Planner(grid, folder, data_dir)
    evaluations = {
        Cell(variant.name, column.name, seed): planner.evaluation(variant, column, seed)
        for seed in grid.seeds
        for variant in grid.variants
        for column in grid.columns
        if grid.has_cell(variant, column)
    }
    return Plan(planner.runs, evaluations)


def config_flags(flags: Iterable[str]) -> tuple[str, ...]:
    """``key=value`` as a command line has it; of a key that is given again, the last value."""
    values = dict(flag.split("=", 1) for flag in flags)
    return tuple(f"--config.{key}={value}" for key, value in values.items())


def model_flags(variant: Variant) -> tuple[str, ...]:
    """The flags that make a recipe's model the one of the variant."""
    return tuple(f"model.{flag}" for flag in variant.model)


class _Planner:
    def __init__(self, grid: Grid, folder: Path, data_dir: Path):
        self.runs: dict[str, Run] = {}
        self._grid, self._folder = grid, folder
        self._shared = f"data_dir={data_dir}"
        self._names: dict[tuple[str, ...], str] = {}  # of commands without the folder they write to

    def evaluation(self, variant: Variant, column: Column, seed: int) -> str | None:
        """Adds what gives the cell its value; returns the last run's name."""
        if column.trained:
            source = self._finetuning(variant, column, seed)
        elif variant.pretrained:
            source = self._pretraining(variant, seed)
        else:
            return None
        # Of held-out pairs of pre-training, masked words and regions are drawn alike for all seeds.
        if column.recipe:
            flags = (*self._grid.finetuning_flags, *column.flags, *variant.finetuning)
        else:
            flags = (*self._pretraining_flags(variant), *column.flags)
        # Trained in bfloat16, a model is scored in float32 all the same: in bfloat16 scores of many pairs are equal.
        flags = (flag for flag in flags if not flag.startswith("model.dtype="))
        recipe = column.recipe or self._grid.pretraining
        command = (
            column.script,
            f"--config={recipe}",
            *config_flags((*flags, *column.eval_flags, self._shared)),
            f"--checkpoint={self._folder / source}",
            f"--split={column.split}",
        )
        name, kind = f"seed{seed}/{variant.name}/{column.name}/evaluation", ("evaluation", recipe, *variant.model)
        return self._add(name, command, "output", METRICS, (source,), kind=kind)

    def _pretraining(self, variant: Variant, seed: int) -> str:
        start = [f"init_from={variant.init_from}"] if variant.init_from else []
        flags = (*self._pretraining_flags(variant), *start, self._shared, f"seed={seed}")
        command = (PRETRAIN, f"--config={self._grid.pretraining}", *config_flags(flags))
        kind = ("pretraining", *variant.model)
        return self._add(f"seed{seed}/{variant.name}/pretraining", command, "workdir", _PRETRAINED, (), kind=kind)

    def _pretraining_flags(self, variant: Variant) -> tuple[str, ...]:
        return (*self._grid.pretraining_flags, *model_flags(variant), *variant.pretraining)

    def _finetuning(self, variant: Variant, column: Column, seed: int) -> str:
        needs = (self._pretraining(variant, seed),) if variant.pretrained else ()
        start = str(self._folder / needs[0]) if needs else variant.init_from
        flags = (
            *self._grid.finetuning_flags,
            *(() if needs else model_flags(variant)),
            *column.flags,
            *variant.finetuning,
            *([f"init_from={start}"] if start else []),
            self._shared,
            f"seed={seed}",
        )
        command = (FINETUNE, f"--config={column.recipe}", *config_flags(flags))
        name, kind = f"seed{seed}/{variant.name}/{column.name}/training", ("training", column.recipe, *variant.model)
        return self._add(name, command, "workdir", _FINETUNED, needs, kind=kind)

    def _add(
        self,
        name: str,
        command: tuple[str, ...],
        into: str,
        leaves: str,
        needs: Sequence[str],
        *,
        kind: tuple[str, ...],
    ) -> str:
        """The name of the run of this command, which may have been there before."""
        if (known := self._names.setdefault(command, name)) == name:
            folder = self._folder / name
            run = Run(name, (*command, f"--{into}={folder}"), folder, folder / leaves, tuple(needs), kind)
            self.runs[name] = run
        return known


def read_values(
    plan: Plan, columns: Sequence[Column], results: Mapping[str, RunStatus]
) -> tuple[list[Value], list[str]]:
    """The value of every cell; a result that cannot be read, or is no finite number, counts as failed.

    Args:
        plan: of the grid.
        columns: of the grid.
        results: what became of each run; of one that is not named, nothing.

    Returns:
        The values, and of every result that cannot be used where it lies and what it is.
    """
    values: list[Value] = []
    problems: dict[str, list[str]] = {column.name: [] for column in columns}
    metric = {column.name: column.metric for column in columns}
    for cell, name in plan.evaluations.items():
        result = None if name is None else results.get(name)
        value, status = None, "empty" if name is None else "failed" if result else "missing"
        if name is not None and result == "done":
            value = _score(plan.runs[name].leaves, metric[cell.column])
            if isinstance(value, str):
                problems[cell.column].append(value)
                value = None
            else:
                status = "done"
        values.append(Value(*cell, value, status))
    return values, [problem for found in problems.values() for problem in dict.fromkeys(found)]


def _score(path: Path, metric: str) -> float | str:
    """One entry of metrics.json, or what is wrong with it."""
    try:
        metrics = json.loads(path.read_text("utf-8"))["metrics"]
    except (ValueError, LookupError, TypeError):
        return f"{path} is damaged; without it, its evaluation runs again"
    if not isinstance(metrics, dict):
        return f"{path} has no metrics: the split has no labels"
    if metric not in metrics:
        return f"{path} has no metric {metric!r}; there are {', '.join(metrics) or 'none'}"
    score = metrics[metric]
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        return f"{path}: {metric} is {score!r}, which is no finite number"
    return float(score)
