"""A grid whose mains are a few lines of Python instead of trainings; run by itself, a process that can be killed.

The mains do what the runner relies on: they go on where they were stopped, save when they are asked to stop, leave a
file behind when they are done, and hold a lock meanwhile. Two at once in one folder leave a file ``collision``.
"""

import dataclasses
import pathlib
import sys

from vilbert_jax import cli
from vilbert_jax.ablation.grid import Column, Grid, Variant
from vilbert_jax.ablation.plan import make_plan
from vilbert_jax.ablation.records import Records
from vilbert_jax.ablation.runner import make_slots, run_all

COMMON = """
import fcntl, json, os, pathlib, signal, sys, time
given = dict(part[2:].split("=", 1) for part in sys.argv[1:])
folder = pathlib.Path(given.get("workdir") or given["output"])
folder.mkdir(parents=True, exist_ok=True)
lock = (folder / ".lock").open("w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    (folder / "collision").touch()
    raise
if given.get("config.broken") == "True":
    sys.exit("this one is broken")
def digits(*parts):
    return sum(ord(letter) * (k + 1) for k, letter in enumerate("".join(parts))) % 97
"""
TRAINING = (
    COMMON
    + """
asked = []
def stop(number, frame):
    asked.append(number)
    (folder / "signals").open("a").write(f"{number}\\n")
if given.get("config.stubborn") == "True":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, stop)
(folder / "checkpoints").mkdir(exist_ok=True)
saved = folder / "checkpoints" / "saved.json"
steps = json.loads(saved.read_text()) if saved.exists() else []
start = given.get("config.init_from")
base = json.loads((pathlib.Path(start) / "checkpoints" / "saved.json").read_text()) if start else [0]
(folder / "started").touch()
while len(steps) < int(given.get("config.steps", 3)):
    if asked:
        sys.exit(0)
    time.sleep(0.05)
    steps.append(digits(given["config"], given["config.seed"], str(base), str(steps)))
    part = folder / "part"
    part.write_text(json.dumps(steps))
    part.replace(saved)
for name in ("examples.png", "report.png"):
    (folder / name).touch()
"""
)
EVALUATION = (
    COMMON
    + """
steps = json.loads((pathlib.Path(given["checkpoint"]) / "checkpoints" / "saved.json").read_text())
part = folder / "part"
part.write_text(json.dumps({"metrics": {"accuracy": digits(str(steps), given["split"]) / 2}}))
part.replace(folder / "metrics.json")
"""
)

GRID = Grid(
    variants=(
        Variant(name="two", title="two streams"),
        Variant(name="two_scratch", title="two streams, plain", pretrained=False),
        Variant(name="one", title="one stream", model=("num_streams=1",)),
    ),
    columns=(
        Column(name="vqa", title="VQA", recipe="vqa", split="test", metric="accuracy"),
        Column(name="vqa_b", title="VQA again", recipe="vqa", split="other", metric="accuracy"),
        Column(name="zero", title="zero-shot", recipe="zero", split="test", metric="accuracy", trained=False),
    ),
    seeds=(0,),
    pretraining="base",
)


def write_mains(root):
    """A folder that has experiments/ as the project has."""
    folder = root / "experiments"
    folder.mkdir(parents=True)
    for name in ("pretrain", "finetune"):
        (folder / f"{name}.py").write_text(TRAINING)
    (folder / "evaluate.py").write_text(EVALUATION)
    return root


def with_flags(flags):
    """The grid with flags of every pre-training."""
    return dataclasses.replace(GRID, pretraining_flags=flags)


def run_grid(root, folder, *, grid=GRID, parallel=2):
    """Runs a grid on the mains of ``root``; returns its plan and what became of the runs."""
    plan = make_plan(grid, folder, root / "data")
    records = Records(folder, plan.runs)
    runs = list(plan.runs.values())
    records.require_unchanged(runs)
    slots = make_slots(parallel, "", num_runs=len(runs))
    with records.locked():
        return plan, run_all(runs, slots=slots, title="", folder=root, records=records)


if __name__ == "__main__":
    flags = tuple(sys.argv[3:])  # of every pre-training
    cli.guarded(lambda: run_grid(*map(pathlib.Path, sys.argv[1:3]), grid=with_flags(flags)) and None)
