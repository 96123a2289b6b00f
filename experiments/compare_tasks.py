"""Every task on the embedded data: python experiments/compare_tasks.py --output=DIR [--seeds=0,1,2] [--parallel=4].

For each task and seed a model is fine-tuned without seeing any picture, from nothing, and from a pre-trained one; all
are scored on held-out pictures in one table (DIR/table.md). ``make demo-tasks`` is one seed. A kill undoes no done run.
"""

import argparse
import os
import pathlib

from tfds_builders import embedded
from vilbert_jax import cli
from vilbert_jax.data.annotations import data_folder
from vilbert_jax.evaluation.comparison import Cell, Run, markdown_table, run_all
from vilbert_jax.evaluation.results import METRICS

ROOT = pathlib.Path(__file__).resolve().parents[1]
TASKS = (  # recipe, held-out split, metric, name in the table
    ("vqa", "test", "accuracy", "questions (VQA), accuracy"),
    ("vcr_qa", "test", "answer_accuracy", "choices Q->A (VCR), accuracy"),
    ("vcr_qar", "test", "rationale_accuracy", "choices QA->R (VCR), accuracy"),
    ("refcoco_plus", "test", "accuracy", "expressions (RefCOCO+), accuracy"),
    ("flickr30k", "test[:200]", "caption_to_image/recall@1", "retrieval (Flickr30k), R@1"),
)
ZERO_SHOT = ("zero_shot_flickr30k", "test[:200]", "caption_to_image/recall@1", "the same, zero-shot")
LANGUAGE, SCRATCH, PRETRAINED = "language only", "without pre-training", "with pre-training"
DATA = ("regions", "given_regions", "captions", "vqa", "choice", "expressions", "retrieval")


def pretraining(seed: str, folder: pathlib.Path, shared: str) -> Run:
    flags, drawn = (shared, f"--config.seed={seed}", f"--workdir={folder}"), folder / "examples.png"
    command = ("experiments/pretrain.py", "--config=configs/tiny.py", *flags)
    return Run(folder.parent.name, (command,), folder.with_suffix(".log"), drawn)


def finetuning(recipe: str, split: str, flags: tuple[str, ...], folder: pathlib.Path) -> Run:
    given = (f"--config=configs/{recipe}.py:scenes", *flags)
    train = ("experiments/finetune.py", *given, f"--workdir={folder}")
    test, trained = folder / "test", folder / "report.png"  # which a run that was asked to stop does not draw
    score = ("experiments/evaluate.py", *given, f"--checkpoint={folder}", f"--split={split}", f"--output={test}")
    return Run(folder.name, (train, score), folder / "log.txt", test / METRICS, leaves=(trained,))


def zero_shot(checkpoint: pathlib.Path, shared: str, folder: pathlib.Path) -> Run:
    flags = (shared, f"--checkpoint={checkpoint}", f"--split={ZERO_SHOT[1]}", f"--output={folder}")
    command = ("experiments/evaluate.py", f"--config=configs/{ZERO_SHOT[0]}.py:scenes", *flags)
    return Run(folder.name, (command,), folder / "log.txt", folder / METRICS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/tasks"), help="where all of it goes")
    parser.add_argument("--seeds", default="0", help="comma-separated; each has a pre-training of its own")
    parser.add_argument("--parallel", type=int, default=os.cpu_count(), help="runs at a time; default: one a core")
    parser.add_argument("--data_dir", default="", help="TFDS folder; default TFDS_DATA_DIR or ~/tensorflow_datasets")
    flags = parser.parse_args()
    data = data_folder(flags.data_dir).absolute()  # the commands run in another folder
    embedded.ensure([f"scenes/{name}_small" for name in DATA], data)
    pretrainings, runs, cells, shared = [], [], [], f"--config.data_dir={data}"
    for seed in flags.seeds.split(","):
        folder = flags.output.absolute() / f"seed{seed}"
        pretrainings.append(pretraining(seed, folder / "pretrained", shared))
        start = f"--config.init_from={folder / 'pretrained'}"
        ways = {LANGUAGE: (start, "--config.blank_pictures=True"), SCRATCH: (), PRETRAINED: (start,)}
        for recipe, split, metric, row in TASKS:
            for column, way in ways.items():
                target = folder / f"{recipe}-{column.replace(' ', '-')}"
                runs.append(finetuning(recipe, split, (shared, f"--config.seed={seed}", *way), target))
                cells.append(Cell(row, column, runs[-1].done, metric))
        runs.append(zero_shot(folder / "pretrained", shared, folder / ZERO_SHOT[0]))
        cells.append(Cell(ZERO_SHOT[3], PRETRAINED, runs[-1].done, ZERO_SHOT[2]))
    run_all(pretrainings, parallel=flags.parallel, title="pre-training", folder=ROOT)
    run_all(runs, parallel=flags.parallel, title="tasks", folder=ROOT)
    table = markdown_table(cells, corner="held-out score, percent")
    (flags.output / "table.md").write_text(table + "\n")
    print(f"{table}\n{flags.output / 'table.md'}")


if __name__ == "__main__":
    cli.guarded(main)
