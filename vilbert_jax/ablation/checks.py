"""What can be found wrong with a grid before hours are spent on it, and the size of its models."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vilbert_jax.ablation.grid import Grid, Variant
from vilbert_jax.ablation.plan import FINETUNE, PRETRAIN, config_flags, model_flags
from vilbert_jax.ablation.runs import Run
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data.annotations import how_to_get
from vilbert_jax.errors import InputError
from vilbert_jax.model_size import forward_flops

Parse = Callable[[Sequence[str]], Mapping[str, Any]]  # --config and --config.KEY=VALUE -> the recipe's entries
_DATA_SETS = ("annotations", "regions", "given_regions")
_KEYS = {  # that only recipes of a main have
    PRETRAIN: "masked_losses_on",
    "experiments/evaluate_pretraining.py": "masked_losses_on",
    FINETUNE: "task",
    "experiments/evaluate.py": "task",
}
# These make no other training: seed and start are in the command; the rest says where data lie, and hints.
_ELSEWHERE = ("seed", "init_from", "data_dir", "pictures", "build_hint", "embedded_hint")


def read_recipes(runs: Iterable[Run], parse: Parse) -> list[Run]:
    """Reads the recipe of every run with its flags, and makes its model's config.

    Args:
        runs: of the grid; their mains are looked up from the current folder.
        parse: reads a recipe.

    Returns:
        The runs with what their recipes say.

    Raises:
        InputError: naming the run: there is no such main or recipe, the recipe is for another main, it has no such
            key, nothing would be learned, or no model can be made.
    """
    known: dict[tuple[str, ...], Mapping[str, Any]] = {}  # by main and flags
    found = []
    for run in runs:
        flags = tuple(part for part in run.command if part.startswith("--config") and not _varies(part))
        key = (run.command[0], *flags)
        if key not in known:
            try:
                recipe = parse(flags)
                _require_usable(run.command[0], recipe)
            except InputError as error:
                raise InputError(f"{run.name} cannot be run: {error}") from error
            known[key] = _flat({name: value for name, value in recipe.items() if name not in _ELSEWHERE})
        found.append(run._replace(recipe=known[key]))
    return found


def data_sets(runs: Iterable[Run]) -> list[str]:
    """Names of the data sets that recipes read; each once."""
    return list(dict.fromkeys(run.recipe[key] for run in runs for key in _DATA_SETS if run.recipe.get(key)))


def require_data(names: Iterable[str], data_dir: Path) -> None:
    """Raises InputError for data sets that are missing, all of them, before hundreds of runs fail one by one.

    Args:
        names: TFDS ``name/config`` or ``name``, or the folder of a region store.
        data_dir: TFDS folder.
    """
    missing = [name for name in names if not (data_dir / name).is_dir() and not Path(name).is_dir()]
    if missing:
        hints = [f"{name}: {how_to_get(name, data_dir=data_dir)}" for name in missing]
        raise InputError(f"{len(missing)} data sets of this grid are not in {data_dir}:\n" + "\n".join(hints))


def model_sizes(grid: Grid, variants: Sequence[Variant], parse: Parse) -> dict[str, tuple[int, int]]:
    """Parameters of each variant's model, and operations of a forward pass on a pair as long as pre-training's.

    A variant whose model cannot be made, or whose pairs have no known length, is left out: ``read_recipes`` refuses to
    run the one, and the flags of a part of the grid may fit that part alone.

    Args:
        grid: for the recipe of pre-training.
        variants: the models.
        parse: reads a recipe.
    """
    sizes = {}
    for variant in variants:
        flags = config_flags((*grid.pretraining_flags, *model_flags(variant)))
        try:
            recipe = parse((f"--config={grid.pretraining}", *flags))
            model = ViLBERTConfig.from_dict(recipe["model"])
        except InputError:
            continue
        if not {"text_length", "max_regions"} <= recipe.keys():
            continue
        flops = forward_flops(model, recipe["text_length"], recipe["max_regions"] + 1)  # the global region is one more
        sizes[variant.name] = (model.num_parameters(), flops)
    return sizes


def _require_usable(main: str, recipe: Mapping[str, Any]) -> None:
    if not os.path.isfile(main):
        raise InputError(f"there is no {main} in {os.getcwd()}")
    if main in _KEYS and _KEYS[main] not in recipe:
        raise InputError(f"its recipe has no entry {_KEYS[main]!r}, so it is not for {main}")
    if "loss_weights" in recipe and not any(recipe["loss_weights"].values()):
        raise InputError("its loss_weights are all 0, so that nothing is learned")
    ViLBERTConfig.from_dict(recipe["model"])


def _varies(flag: str) -> bool:
    """Paths and numbers that a recipe takes as they are."""
    return flag.startswith(("--config.seed=", "--config.data_dir=", "--config.init_from="))


def _flat(entries: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Entries by dotted key, as JSON has them; of a file its name, since the project may lie elsewhere tomorrow."""
    found: dict[str, Any] = {}
    for key, value in entries.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            is_path = isinstance(value, str) and os.path.isabs(value)
            found[prefix + key] = os.path.basename(value) if is_path else json.loads(json.dumps(value, default=str))
    return found
