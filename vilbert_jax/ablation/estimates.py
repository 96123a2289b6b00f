"""What the seeds of a grid say: means with intervals, and differences between variants that are paired by seed."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scipy.special import stdtrit

from vilbert_jax.ablation.grid import Column, Value, Variant, has_cell
from vilbert_jax.errors import InputError

_CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: of the values.
        half_width: the 95 % interval of the mean is ``mean - half_width`` to ``mean + half_width``; None where one
            seed tells nothing about the spread.
        num_seeds: that have a value.
    """

    mean: float
    half_width: float | None
    num_seeds: int

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies above or below zero, else 0."""
        if self.half_width is None or not abs(self.mean) > self.half_width:
            return 0
        return 1 if self.mean > 0 else -1


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and 95 % interval by Student's t, as for values drawn from one normal distribution; None without values."""
    values = [float(value) for value in values]
    if not values:
        return None
    mean, count = math.fsum(values) / len(values), len(values)
    if count == 1:
        return Estimate(mean, None, 1)
    quantile = float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2))
    return Estimate(mean, quantile * statistics.stdev(values) / math.sqrt(count), count)


class Results:
    """The values of a grid by cell; a cell that was never reached is missing.

    Attributes:
        seeds: all that occur, in ascending order.
    """

    def __init__(
        self, variants: Sequence[Variant], columns: Sequence[Column], values: Iterable[Value], *, reference: str = ""
    ):
        """Sorts values into cells.

        Args:
            variants: of the grid.
            columns: of the grid.
            values: at most one for each variant, column and seed.
            reference: name of the variant that has a cell in every column; others have where the column's groups say.

        Raises:
            InputError: a value belongs to no variant or column, or a second one to the same seed, or a value that is
                done has no number, or another one has.
        """
        self._reference = reference
        rows, names = {variant.name for variant in variants}, {column.name for column in columns}
        self._values: dict[tuple[str, str, int], Value] = {}
        for value in values:
            where = f"value of variant {value.variant!r}, column {value.column!r}, seed {value.seed}"
            if value.variant not in rows or value.column not in names:
                raise InputError(f"{where}: the grid has variants {sorted(rows)} and columns {sorted(names)}.")
            if value[:3] in self._values:
                raise InputError(f"{where} occurs twice; a cell has one value a seed.")
            if (value.status == "done") != (value.value is not None):
                raise InputError(f"{where} is {value.value} and {value.status}: those that are done have a number.")
            self._values[value[:3]] = value
        self.seeds = tuple(sorted({value.seed for value in self._values.values()}))

    def has(self, variant: Variant, column: Column) -> bool:
        """Whether the grid has this cell."""
        return has_cell(variant, column, self._reference)

    def cell(self, variant: Variant, column: Column) -> tuple[Value, ...]:
        """A value for every seed of the grid."""
        return tuple(
            self._values.get((variant.name, column.name, seed))
            or Value(variant.name, column.name, seed, None, "missing")
            for seed in self.seeds
        )

    def scores(self, variant: Variant, column: Column) -> Mapping[int, float]:
        """Seed -> score, of the seeds that are done."""
        return {value.seed: value.value for value in self.cell(variant, column) if value.value is not None}

    def differences(self, variant: Variant, reference: Variant, column: Column) -> Mapping[int, float]:
        """Seed -> score of the variant less that of the reference, of the seeds that both have."""
        scores, others = self.scores(variant, column), self.scores(reference, column)
        return {seed: score - others[seed] for seed, score in scores.items() if seed in others}


def less_is_better(column: Column) -> bool:
    """The column is a loss."""
    return not is_percentage(column)


def is_percentage(column: Column) -> bool:
    """The column is a share, of which more is better."""
    return column.unit == "percent"


def same_runs(one: Variant, other: Variant) -> bool:
    """Both name the same training, so that their difference is zero by construction."""
    return _training(one) == _training(other)


def distinct(variants: Sequence[Variant]) -> list[Variant]:
    """The first of each set of variants that name the same training."""
    found: list[Variant] = []
    for variant in variants:
        if not any(same_runs(variant, other) for other in found):
            found.append(variant)
    return found


def without_pretraining(variant: Variant, variants: Sequence[Variant]) -> Variant | None:
    """The variant of the same table that is the same model, fine-tuned likewise, but not pre-trained.

    Of several pre-trainings of one model, the one without flags of its own has it: a share of the data has not.
    """
    if not variant.pretrained or variant.pretraining:
        return None
    like = (variant.group, variant.model, variant.finetuning)
    others = (v for v in variants if not v.pretrained and (v.group, v.model, v.finetuning) == like)
    return next(others, None)


def _training(variant: Variant) -> tuple[object, ...]:
    pretraining = variant.pretraining if variant.pretrained else None
    return variant.pretrained, variant.model, pretraining, variant.finetuning, variant.init_from
