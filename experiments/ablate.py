"""A grid of experiments: python experiments/ablate.py --config=configs/ablation.py[:scenes] [--workdir=DIR].

Pre-trains, fine-tunes and scores every variant of a model on every task with every seed, several runs side by side.
Starting again continues, whatever was killed. DIR, or else runs/<config>, gets ablation.md, ablation.csv and plots; the
runs lie below it, each with its log. --config.parallel, --config.gpus, --config.seeds, --config.only_variants and
--config.only_columns say what is run where; --config.report_only=True runs nothing. The tables are always those of the
whole grid, as far as it is done.
"""

import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tfds_builders import embedded
from vilbert_jax import cli
from vilbert_jax.ablation.checks import data_sets, model_sizes, read_recipes, require_data
from vilbert_jax.ablation.grid import Grid
from vilbert_jax.ablation.machine import describe_machine
from vilbert_jax.ablation.plan import make_plan, read_values
from vilbert_jax.ablation.recipe import page_command, require_entries
from vilbert_jax.ablation.records import Records, is_begun
from vilbert_jax.ablation.report import MARKDOWN, Facts, write_results
from vilbert_jax.ablation.runner import failures, make_slots, run_all
from vilbert_jax.ablation.runs import unfinished
from vilbert_jax.data.annotations import data_folder

ROOT = pathlib.Path(__file__).resolve().parents[1]


def parse(flags: Sequence[str]) -> Mapping[str, Any]:
    return cli.parse(["the recipe", *flags])[0].to_dict()


def main(config: Any, workdir: pathlib.Path) -> int:
    require_entries(config.keys())
    grid = Grid.from_dict(config.to_dict())
    variants, columns = grid.chosen(config.only_variants, config.only_columns)
    folder, data = workdir.resolve(), data_folder(config.data_dir).resolve()
    os.chdir(ROOT)  # recipes and mains are named from here
    plan = make_plan(grid, folder, data)
    wanted = read_recipes(plan.needed(variants, columns), parse)
    begun = read_recipes([run for run in plan.runs.values() if is_begun(run)], parse)  # the whole grid is reported
    runs = plan.runs | {run.name: run for run in [*wanted, *begun]}
    sizes = model_sizes(grid, grid.variants, parse)
    records = Records(folder, runs, machine=describe_machine())
    records.require_unchanged([] if config.report_only else wanted)
    results, problems = records.outcomes(list(runs.values())), []
    if not config.report_only:
        left = unfinished(wanted, records.results(wanted))
        slots = make_slots(config.parallel, config.gpus, num_runs=len(left))
        names = data_sets(left)
        require_data([name for name in names if not name.startswith("scenes/")], data)
        embedded.ensure([name for name in names if name.startswith("scenes/")], data)
        with records.locked():
            results |= run_all(wanted, slots=slots, title=folder.name, folder=ROOT, records=records)
        problems = failures(wanted, results)
    values, unusable = read_values(plan, grid.columns, results)
    for problem in (problems := problems + unusable):
        print(problem, file=sys.stderr)
    facts = Facts(
        command=page_command(sys.argv[1:]),
        machines=records.attempts.machines(),
        core_seconds=records.attempts.core_seconds(),
        gpu_seconds=records.attempts.gpu_seconds(),
        wall_seconds=records.attempts.wall_seconds(),
        sizes=sizes,
        reference=grid.reference or grid.variants[0].name,
    )
    write_results(folder, grid.variants, grid.columns, values, facts)
    print(f"{(folder / MARKDOWN).read_text()}\n{folder / MARKDOWN}")
    return 1 if problems else 0


if __name__ == "__main__":
    cli.run(main)
