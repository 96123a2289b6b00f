"""A grid of experiments: python experiments/ablate.py --config=configs/ablation.py[:scenes] [--workdir=DIR].

Pre-trains, fine-tunes and scores every variant of a model on every task with every seed, several runs side by side.
Starting again continues, whatever was killed. DIR, or else runs/<config>, gets ablation.md, ablation.csv and plots; the
runs lie below it, each with its log. --config.parallel, --config.gpus, --config.seeds, --config.only_variants and
--config.only_columns say what is run where; --config.report_only=True writes the tables of what is done.
"""

import os
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tfds_builders import embedded
from vilbert_jax import cli
from vilbert_jax.ablation.checks import check_recipes, model_sizes
from vilbert_jax.ablation.grid import Grid
from vilbert_jax.ablation.machine import describe_machine
from vilbert_jax.ablation.plan import make_plan, read_values
from vilbert_jax.ablation.records import Records
from vilbert_jax.ablation.report import MARKDOWN, Facts, write_results
from vilbert_jax.ablation.runner import failures, make_slots, run_all
from vilbert_jax.data.annotations import data_folder

ROOT = pathlib.Path(__file__).resolve().parents[1]


def parse(flags: Sequence[str]) -> Mapping[str, Any]:
    return cli.parse(["the recipe", *flags])[0].to_dict()


def main(config: Any, workdir: pathlib.Path) -> int:
    grid = Grid.from_dict(config.to_dict())
    variants, columns = grid.chosen(config.only_variants, config.only_columns)
    folder, data = workdir.absolute(), data_folder(config.data_dir).absolute()
    os.chdir(ROOT)  # recipes and mains are named from here
    plan = make_plan(grid, folder, data)
    runs = plan.needed(variants, columns)
    data_sets, sizes = check_recipes(runs, parse), model_sizes(grid, variants, parse)
    records = Records(folder, plan.runs)
    records.require_unchanged(runs)
    results = records.results(runs)
    if not config.report_only:
        slots = make_slots(config.parallel, config.gpus, num_runs=len(runs) - len(results))
        embedded.ensure([name for name in data_sets if name.startswith("scenes/")], data)
        with records.locked():
            results = run_all(runs, slots=slots, title=folder.name, folder=ROOT, records=records)
    facts = Facts(
        command="python experiments/ablate.py " + shlex.join(flag for flag in sys.argv[1:] if "dir=" not in flag),
        machine=describe_machine(gpus=bool(config.gpus)),
        core_seconds=records.core_seconds(),
        wall_seconds=records.wall_seconds(),
        sizes=sizes,
        reference=config.reference if config.reference in [v.name for v in variants] else variants[0].name,
    )
    write_results(folder, variants, columns, read_values(plan, variants, columns, grid.seeds, results), facts)
    print(f"{(folder / MARKDOWN).read_text()}\n{folder / MARKDOWN}")
    if message := "" if config.report_only else failures(runs, results):
        print(message, file=sys.stderr)
    return 1 if message else 0


if __name__ == "__main__":
    cli.run(main)
