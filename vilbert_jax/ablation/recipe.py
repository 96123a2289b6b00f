"""What the recipe of a grid starts from, and which of its entries say no more than how it is run."""

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vilbert_jax.errors import InputError

# How and where it is run changes no value, and the page always shows the whole grid.
_LEFT_OUT = (
    "workdir", "config.data_dir", "config.parallel", "config.report_only", "config.only_variants",
    "config.only_columns",
)  # fmt: skip


def grid_recipe(
    *,
    variants: Mapping[str, Mapping[str, Any]],
    columns: Mapping[str, Mapping[str, Any]],
    pretraining: str,
    pretraining_flags: Sequence[str] = (),
    finetuning_flags: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    reference: str = "",
) -> ConfigDict:
    """A recipe for experiments/ablate.py, which can be changed like any other.

    Args:
        variants: the rows by name, in order: fields of ``Variant``. Flags are KEY=VALUE of the recipes.
        columns: the scores by name, in order: fields of ``Column``.
        pretraining: recipe of every pre-training.
        pretraining_flags: of every pre-training.
        finetuning_flags: of every fine-tuning and of the evaluations of tasks.
        seeds: of pre-training and fine-tuning.
        reference: name of the variant that others are compared with; empty: the first.
    """
    config = ConfigDict()
    config.data_dir = ""  # TFDS folder; empty: TFDS_DATA_DIR, or else ~/tensorflow_datasets
    config.reference = reference

    # --- what is run, and where
    config.seeds = tuple(seeds)
    config.only_variants = config.only_columns = ""  # names with commas; empty: all
    config.parallel = 0  # runs side by side; 0: one a GPU of config.gpus, or else one a core
    config.gpus = ""  # "0,1,2,3": one GPU a run; "0,1;2,3": two
    config.report_only = False  # writes the tables of what is done, and runs nothing

    config.pretraining = ConfigDict(dict(recipe=pretraining, flags=tuple(pretraining_flags)))
    config.finetuning = ConfigDict(dict(flags=tuple(finetuning_flags)))
    config.variants = ConfigDict(dict(variants), sort_keys=False)
    config.columns = ConfigDict(dict(columns), sort_keys=False)
    return config


def require_entries(keys: Collection[str]) -> None:
    """Raises InputError where a recipe lacks entries that a grid has."""
    if missing := [key for key in grid_recipe(variants={}, columns={}, pretraining="") if key not in keys]:
        raise InputError(
            f"this config is no grid: it lacks {', '.join(missing)}. Make it by vilbert_jax.ablation.recipe.grid_recipe"
        )


def page_command(arguments: Iterable[str]) -> str:
    """The command that makes the same tables, for whoever reads them.

    Args:
        arguments: what experiments/ablate.py was started with.
    """
    kept, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        name, given, _ = argument.lstrip("-").partition("=")
        if name.removeprefix("no") not in _LEFT_OUT:
            kept.append(argument)
        elif not given and rest and not rest[0].startswith("-"):
            rest.pop(0)  # --workdir DIR
    return shlex.join(["python", "experiments/ablate.py", *kept])
