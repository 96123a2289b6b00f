"""What a grid of experiments consists of: variants of a model, columns of scores, and the value of each cell."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

from vilbert_jax.errors import InputError

CellStatus = Literal["done", "failed", "missing", "empty"]
_OWN = ("seed", "data_dir", "init_from")  # flags that runs get from the grid
_UNITS = ("percent", "nats")
_ON_AN_AXIS = ("depth", "data")  # groups whose names end with their place on the axis of a plot


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the grid: a model and how it is trained. Flags are ``key=value`` of a recipe, without ``--config.``.

    Attributes:
        name: in folders, files and ``--config.only_variants``.
        title: for people.
        group: the table that it belongs to. Names in the groups ``depth`` and ``data`` end with their place on the axis
            of a plot: ``depth_4``.
        pretrained: it is pre-trained before it is fine-tuned.
        model: flags of the model, without ``model.``: of pre-training and, where there is none, of fine-tuning.
        pretraining: flags of its pre-training.
        finetuning: flags of its fine-tunings and of the evaluations of tasks.
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
        eval_flags: of evaluation alone.
        digits: decimals that are shown, 0 to 9.
        unit: ``percent``, of which more is better; or ``nats`` of a loss, of which less is.
        script: the main that evaluates.
        groups: whose variants have a cell in it, besides the reference; empty: all.
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
    unit: str = "percent"
    script: str = "experiments/evaluate.py"
    groups: tuple[str, ...] = ()


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
    status: CellStatus


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Every variant in every column, with every seed.

    Attributes:
        variants: the rows.
        columns: the scores.
        seeds: of pre-training and fine-tuning.
        pretraining: recipe of every pre-training.
        pretraining_flags: of every pre-training; a variant's own come later and win.
        finetuning_flags: of every fine-tuning and of the evaluations of tasks; a column's and a variant's own come
            later and win.
        reference: name of the variant that others are compared with; empty: the first.
    """

    variants: tuple[Variant, ...]
    columns: tuple[Column, ...]
    seeds: tuple[int, ...]
    pretraining: str
    pretraining_flags: tuple[str, ...] = ()
    finetuning_flags: tuple[str, ...] = ()
    reference: str = ""

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
        if wrong := [seed for seed in self.seeds if type(seed) is not int or seed < 0]:
            raise InputError(f"seeds are numbers of at least 0, not {wrong[0]!r}: --config.seeds=(0,1,2)")
        for where, flags in self._all_flags():
            for flag in flags:
                if not re.match(r"[\w.]+=", flag):
                    raise InputError(f"{where}: the flag {flag!r} is not KEY=VALUE (without --config.)")
                if flag.partition("=")[0] in _OWN:
                    raise InputError(
                        f"{where}: the grid itself sets {flag!r}, by seeds, data_dir, or a variant's init_from"
                    )
        if self.reference not in ("", *(variant.name for variant in self.variants)):
            names = ", ".join(variant.name for variant in self.variants)
            raise InputError(f"the reference {self.reference!r} is no variant of the grid: there are {names}")
        self._check_rows()

    def _check_rows(self) -> None:
        for variant in self.variants:
            if variant.pretraining and not variant.pretrained:
                raise InputError(f"variant {variant.name} has flags of pre-training, but is not pre-trained")
            if variant.group in _ON_AN_AXIS and not re.search(r"\d$", variant.name):
                raise InputError(
                    f"variant {variant.name} of the group {variant.group!r} stands on an axis: end its name with its "
                    f"place there, such as {variant.group}_25"
                )
        groups = {variant.group for variant in self.variants}
        for column in self.columns:
            if not column.recipe and column.trained:
                raise InputError(f"column {column.name} has no recipe to fine-tune with")
            if column.unit not in _UNITS:
                raise InputError(f"column {column.name} has unit={column.unit!r}: choose {' or '.join(_UNITS)}")
            if not 0 <= column.digits <= 9:
                raise InputError(f"column {column.name} has digits={column.digits}: choose 0 to 9")
            if unknown := [group for group in column.groups if group not in groups]:
                raise InputError(f"column {column.name} is for group {unknown[0]!r}; there are {sorted(groups)}")
        for row in (*self.variants, *self.columns):
            if re.search(r"[|\n]", row.title):
                raise InputError(f"{row.name} has the title {row.title!r}: tables take one line without |")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The grid of a recipe as nested plain dicts; entries that say how it is run are left alone.

        Raises:
            InputError: for an entry that a variant or a column does not have, that is missing, or of a wrong type.
        """
        seeds, pretraining = fields["seeds"], fields["pretraining"]
        if not isinstance(seeds, tuple | list):
            raise InputError(f"seeds are {seeds!r}; expected several numbers: --config.seeds=(0,1,2)")
        if not isinstance(pretraining, Mapping) or not isinstance(pretraining.get("recipe"), str):
            raise InputError(f"pretraining is {pretraining!r}; expected recipe='configs/NAME.py' and flags=()")
        return cls(
            variants=tuple(_build(Variant, name, entry) for name, entry in _entries("variants", fields).items()),
            columns=tuple(_build(Column, name, entry) for name, entry in _entries("columns", fields).items()),
            seeds=tuple(seeds),
            pretraining=pretraining["recipe"],
            pretraining_flags=_flags("pretraining", pretraining),
            finetuning_flags=_flags("finetuning", fields["finetuning"]),
            reference=fields.get("reference", ""),
        )

    def has_cell(self, variant: Variant, column: Column) -> bool:
        """Whether the variant is scored in the column."""
        return has_cell(variant, column, self.reference or self.variants[0].name)

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


def has_cell(variant: Variant, column: Column, reference: str) -> bool:
    """Whether the variant is scored in the column, in a grid whose reference has this name."""
    return not column.groups or variant.group in column.groups or variant.name == reference


def group_columns(group: str, columns: Sequence[Column]) -> list[Column]:
    """The columns that the variants of a group are scored in."""
    return [column for column in columns if not column.groups or group in column.groups]


def _entries(kind: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(fields[kind], Mapping):
        raise InputError(f"{kind} are {fields[kind]!r}; expected an entry for each, by name")
    return fields[kind]


def _flags(where: str, entry: Any) -> tuple[str, ...]:
    flags = entry.get("flags", ()) if isinstance(entry, Mapping) else None
    if not isinstance(flags, tuple | list) or not all(isinstance(flag, str) for flag in flags):
        raise InputError(f"{where} is {entry!r}; expected flags=('KEY=VALUE', ...)")
    return tuple(flags)


def _build(cls: Any, name: str, entry: Any) -> Any:
    """A variant or a column from its entry in a recipe."""
    if not isinstance(entry, Mapping):
        raise InputError(f"{cls.__name__.lower()} {name} is {entry!r}; expected its entries by name")
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
