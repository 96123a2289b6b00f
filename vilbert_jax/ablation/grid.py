"""What a grid of experiments consists of: variants of a model, columns of scores, and the value of each cell."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

from vilbert_jax.errors import InputError

Status = Literal["done", "failed", "missing", "empty"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the grid: a model and how it is trained. Flags are ``key=value`` of a recipe, without ``--config.``.

    Attributes:
        name: in folders, files and ``--config.only_variants``.
        title: for people.
        group: the table that it belongs to.
        pretrained: it is pre-trained before it is fine-tuned.
        model: flags of the model, without ``model.``: of pre-training and, where there is none, of fine-tuning.
        pretraining: flags of its pre-training.
        finetuning: flags of its fine-tunings and of their evaluations.
        init_from: what training starts from; empty: at random.
    """

    name: str
    title: str
    group: str = ""
    pretrained: bool = True
    model: tuple[str, ...] = ()
    pretraining: tuple[str, ...] = ()
    finetuning: tuple[str, ...] = ()
    init_from: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One score of every variant.

    Attributes:
        name: in folders, files and ``--config.only_columns``.
        title: for people.
        recipe: of fine-tuning and evaluation, ``configs/vqa.py:scenes``; empty, where nothing is fine-tuned: the one of
            pre-training with the flags of each variant's pre-training.
        split: what is evaluated.
        metric: entry of ``metrics`` in metrics.json.
        trained: the pre-trained model is fine-tuned first; otherwise it is evaluated as it is.
        flags: of fine-tuning and evaluation.
        eval_flags: of evaluation alone; ``{name}`` stands for the folder of the evaluation of an earlier column.
        digits: decimals that are shown; 3 means that the value is no percentage.
        script: the main that evaluates.
    """

    name: str
    title: str
    recipe: str
    split: str
    metric: str
    trained: bool = True
    flags: tuple[str, ...] = ()
    eval_flags: tuple[str, ...] = ()
    digits: int = 1
    script: str = "experiments/evaluate.py"


class Value(NamedTuple):
    """One cell of one seed.

    Attributes:
        variant: name of the variant.
        column: name of the column.
        seed: of everything random in it.
        value: the score, where ``status`` is "done".
        status: "empty" means that there is nothing to evaluate: zero-shot without pre-training.
    """

    variant: str
    column: str
    seed: int
    value: float | None
    status: Status


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Every variant in every column, with every seed.

    Attributes:
        variants: the rows.
        columns: the scores.
        seeds: of pre-training and fine-tuning.
        pretraining: recipe of every pre-training.
        pretraining_flags: of every pre-training; a variant's own come later and win.
        finetuning_flags: of every fine-tuning; a column's and a variant's own come later and win.
    """

    variants: tuple[Variant, ...]
    columns: tuple[Column, ...]
    seeds: tuple[int, ...]
    pretraining: str
    pretraining_flags: tuple[str, ...] = ()
    finetuning_flags: tuple[str, ...] = ()

    def __post_init__(self):
        """Refuses what cannot be run.

        Raises:
            InputError: naming the variant or column and what is wrong with it.
        """
        for kind, names in (("variants", [v.name for v in self.variants]), ("columns", [c.name for c in self.columns])):
            _require_some(kind, names)
            for name in names:
                if not re.fullmatch(r"[a-zA-Z0-9_]+", name):
                    raise InputError(f"{name!r} cannot name one of the {kind}: use letters, digits and underscores")
        _require_some("seeds", self.seeds)
        if wrong := [seed for seed in self.seeds if not isinstance(seed, int) or seed < 0]:
            raise InputError(f"seeds are numbers of at least 0, not {wrong[0]!r}: --config.seeds=(0,1,2)")
        for where, flags in self._all_flags():
            for flag in flags:
                if not re.match(r"[\w.]+=", flag):
                    raise InputError(f"{where}: the flag {flag!r} is not KEY=VALUE (without --config.)")
        for k, column in enumerate(self.columns):
            if not column.recipe and column.trained:
                raise InputError(f"column {column.name} has no recipe to fine-tune with")
            if any(placeholders(flag) for flag in column.flags):
                raise InputError(f"column {column.name} names the evaluation of another in flags; put it in eval_flags")
            known = {earlier.name for earlier in self.columns[:k]}
            for name in (name for flag in column.eval_flags for name in placeholders(flag)):
                if name not in known:
                    raise InputError(
                        f"column {column.name} reads the evaluation of {{{name}}}, which no column before it is called"
                    )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The grid of a recipe as nested plain dicts; entries that say how it is run are left alone.

        Raises:
            InputError: for an entry that a variant or a column does not have, or that is missing.
        """
        return cls(
            variants=tuple(_build(Variant, name, entry) for name, entry in fields["variants"].items()),
            columns=tuple(_build(Column, name, entry) for name, entry in fields["columns"].items()),
            seeds=tuple(fields["seeds"]),
            pretraining=fields["pretraining"]["recipe"],
            pretraining_flags=tuple(fields["pretraining"]["flags"]),
            finetuning_flags=tuple(fields["finetuning"]["flags"]),
        )

    def chosen(self, only_variants: str, only_columns: str) -> tuple[tuple[Variant, ...], tuple[Column, ...]]:
        """The variants and columns of comma-separated names, in the order of the grid; empty: all.

        Raises:
            InputError: a name that there is not.
        """
        variants = _names(only_variants, [v.name for v in self.variants], "only_variants")
        columns = _names(only_columns, [c.name for c in self.columns], "only_columns")
        return (
            tuple(v for v in self.variants if v.name in variants),
            tuple(c for c in self.columns if c.name in columns),
        )

    def _all_flags(self) -> Iterable[tuple[str, Sequence[str]]]:
        yield "pretraining", self.pretraining_flags
        yield "finetuning", self.finetuning_flags
        for v in self.variants:
            yield f"variant {v.name}", (*v.model, *v.pretraining, *v.finetuning)
        for c in self.columns:
            yield f"column {c.name}", (*c.flags, *c.eval_flags)


def _build(cls: Any, name: str, entry: Mapping[str, Any]) -> Any:
    """A variant or a column from its entry in a recipe."""
    declared = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(entry.keys() - (declared.keys() - {"name"}))
    missing = [n for n, f in declared.items() if f.default is dataclasses.MISSING and n not in entry and n != "name"]
    if unknown or missing:
        raise InputError(
            f"{cls.__name__.lower()} {name}: unknown entries {unknown}, missing entries {missing}; it has "
            f"{', '.join(n for n in declared if n != 'name')}"
        )
    for key, value in entry.items():
        expected = bool if declared[key].type is bool else int if declared[key].type is int else str
        if declared[key].type == tuple[str, ...]:
            fine = isinstance(value, tuple | list) and all(isinstance(flag, str) for flag in value)
        else:
            fine = isinstance(value, expected)
        if not fine:
            raise InputError(f"{cls.__name__.lower()} {name}: {key} is {value!r}; it must be a {declared[key].type}")
    return cls(name=name, **{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})


def placeholders(flag: str) -> list[str]:
    """Names in braces."""
    return re.findall(r"\{(\w+)\}", flag)


def _require_some(kind: str, values: Sequence[object]) -> None:
    if not values:
        raise InputError(f"the grid has no {kind}: give at least one")
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise InputError(f"the {kind} of the grid have {twice[0]!r} twice")


def _names(asked: str, known: Sequence[str], key: str) -> list[str]:
    names = [name.strip() for name in asked.split(",") if name.strip()] or list(known)
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{key} names {unknown[0]!r}, which is not in the grid: there are {', '.join(known)}")
    return names
