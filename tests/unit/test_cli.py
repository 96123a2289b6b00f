"""Command lines: which flags reach the program, which task a config names, and how programs end."""

import dataclasses
import pathlib

import pytest
from ml_collections import ConfigDict

from vilbert_jax import cli
from vilbert_jax.data.examples import ExamplesConfig
from vilbert_jax.errors import InputError
from vilbert_jax.tasks.grounding import Grounding
from vilbert_jax.tasks.vcr import VCR
from vilbert_jax.tasks.vqa import VQA
from vilbert_jax.training.logging import NonFiniteError

CONFIG = """
from ml_collections import ConfigDict

def get_config(size="small"):
    return ConfigDict({"steps": 3, "name": size, "pair": (1, 2), "model": ConfigDict({"width": 4, "rate": 0.5})})
"""
FLAGS = {"checkpoint": "What to read.", "split": "Of the data."}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(CONFIG)
    return f"--config={path}"


def parse(*arguments, **options):
    return cli.parse(["program.py", *arguments], **options)


def ended(main):
    with pytest.raises(SystemExit) as exit_info:
        cli.guarded(main)
    return exit_info.value.code


# --- flags


def test_a_config_its_changes_and_the_folder(recipe):
    config, folder, further = parse(recipe, "--config.steps=7", "--config.model.width=8", "--workdir=out")
    assert (config.steps, config.name, config.model.width) == (7, "small", 8)
    assert (folder, further) == (pathlib.Path("out"), {})
    with pytest.raises(AttributeError):
        config.stepz = 1


def test_without_a_folder_it_is_named_after_the_config(recipe):
    assert parse(recipe)[1] == pathlib.Path("runs/recipe")
    config, folder, _ = parse(f"{recipe}:large", folder="output")
    assert (config.name, folder) == ("large", pathlib.Path("runs/recipe-large"))


def test_further_flags_are_text_and_empty_where_they_are_not_given(recipe):
    given = parse(recipe, "--split=test[:3]", "--output", "there", folder="output", flags=FLAGS)
    assert given[1:] == (pathlib.Path("there"), {"checkpoint": "", "split": "test[:3]"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint=x"], "checkpoint"),  # not a flag of this program
        (["--workdir=a", "--output=b"], "output"),
        (["surplus"], "arguments not understood: surplus\nusage: program.py --config=FILE.* \\[--workdir=...\\]"),
        (["--config.step=1"], "--config.step does not exist in this config; did you mean steps"),
        (["--config.model.depth=1"], "--config.model.depth does not exist"),
        (["--config.steps=many"], "many"),
        (["--config.model.rate=high"], "high"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(recipe, arguments, words):
    with pytest.raises(InputError, match=words):
        parse(recipe, *arguments)


def test_the_usage_names_every_flag():
    with pytest.raises(InputError) as error:
        parse("--split=x", folder="output", flags=FLAGS)
    assert str(error.value).startswith("--config is missing\nusage: program.py --config=FILE[:ARG]")
    with pytest.raises(InputError, match="--config is followed by a space: write --config=FILE"):
        cli.parse(["program.py", "--config", "configs/tiny.py"])
    assert "[--output=...] [--checkpoint=...] [--split=...]" in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no config file"),
        ("x = 1", "KeyError: 'get_config'"),
        ("def get_config(): return {}", "get_config returned a dict"),
        ("def get_config(): raise ValueError('choose small or large')", "as a config: choose small or large"),
        ("def get_config(:", "SyntaxError"),
        ("def get_config(): return 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_config_that_cannot_be_loaded_is_one_message(tmp_path, content, words):
    path = tmp_path / "recipe.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words):
        parse(f"--config={path}")


def test_the_program_gets_what_was_parsed(recipe, capfd):
    seen = []

    def main(config, output, checkpoint, split):
        seen.append((config.steps, output, checkpoint, split))
        return 3

    with pytest.raises(SystemExit) as exit_info:
        cli.run(main, ["p", recipe, "--checkpoint=c"], folder="output", flags=FLAGS)
    assert exit_info.value.code == 3
    assert seen == [(3, pathlib.Path("runs/recipe"), "c", "")]
    with pytest.raises(SystemExit) as exit_info:
        cli.run(main, ["p", recipe, "--config.stepz=1"], folder="output", flags=FLAGS)
    assert exit_info.value.code == 2
    assert len(seen) == 1
    assert capfd.readouterr().err.startswith("error: --config.stepz does not exist")


def test_a_program_that_trains_is_given_its_own_train_unless_a_plan_is_asked_for(recipe):
    calls = []

    def main(config, workdir, train="its own"):
        calls.append((config.steps, workdir.name, train))

    with pytest.raises(SystemExit):
        cli.run(main, ["p", recipe, "--workdir=there"], trains=True)
    assert calls == [(3, "there", "its own")]


def test_rates_without_a_plan_are_refused(recipe, capfd):
    with pytest.raises(SystemExit) as exit_info:
        cli.run(lambda *_: None, ["p", recipe, "--rates=flops=1"], trains=True)
    assert exit_info.value.code == 2
    assert "add --plan" in capfd.readouterr().err


def test_only_programs_that_train_have_a_plan(recipe, capfd):
    with pytest.raises(SystemExit) as exit_info:
        cli.run(lambda *_: None, ["p", recipe, "--plan"])
    assert exit_info.value.code == 2
    assert "Unknown command line flag 'plan'" in capfd.readouterr().err


def test_a_recipe_for_another_program_is_refused(recipe, capfd):
    with pytest.raises(SystemExit) as exit_info:
        cli.run(lambda *_: 0, ["tools/train.py", recipe], recipe=("task", "recipes of a task"))
    assert exit_info.value.code == 2
    assert capfd.readouterr().err == (
        "error: this config has no entry 'task', so it is for another program: train.py takes recipes of a task\n"
    )
    with pytest.raises(SystemExit) as exit_info:
        cli.run(lambda *_: 0, ["train.py", recipe], recipe=("steps", "any"))
    assert exit_info.value.code == 0


# --- how programs end


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("give a file"), 2, "error: give a file\n"),
        (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device. Check the path"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (NonFiniteError(2, "loss", float("nan")), 1, "stopped: loss is nan at step 2"),
    ],
)
def test_errors_that_people_can_act_on_are_one_message(error, code, said, capfd):
    assert ended(raising(error)) == code
    message = capfd.readouterr().err
    assert message.startswith(said)
    assert message.count("\n") == 1


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.guarded(raising(ZeroDivisionError()))


def test_the_exit_code_is_what_the_program_returns():
    assert (ended(lambda: None), ended(lambda: 0), ended(lambda: 5)) == (0, 0, 5)


# --- tasks


def task_config(task, **fields):
    known = {"annotations": "a", "regions": "r", "vocab": "v", "batch_size": 4, "text_length": 9, "optimizer": "x"}
    return ConfigDict({"task": task, **known, **fields})


def test_a_task_takes_the_entries_that_are_its_fields_and_its_data_the_others():
    task = cli.build_task(task_config("vilbert_jax.tasks.vqa:VQA", rules="2017", seed=5, passes="both"))
    assert task == VQA(data=task.data, rules="2017")
    assert task.data == ExamplesConfig(annotations="a", regions="r", vocab="v", batch_size=4, text_length=9, seed=5)
    task = cli.build_task(task_config("vilbert_jax.tasks.vcr:VCR", passes="both", given_regions="g"))
    assert isinstance(task, VCR)
    assert (task.passes, task.data.given_regions) == ("both", "g")
    assert isinstance(cli.build_task(task_config("vilbert_jax.tasks.grounding:Grounding")), Grounding)


@pytest.mark.parametrize(
    "task",
    [
        "",
        "vqa",
        "vilbert_jax.tasks.vqa",
        "vilbert_jax.tasks.vqa:VQAA",
        "vilbert_jax.tasks.nothing:VQA",
        ":VQA",
        "..a:B",
    ],
)
def test_a_task_that_does_not_exist_is_refused(task):
    with pytest.raises(InputError, match="cannot be loaded .*: write module:Class, such as .*PYTHONPATH"):
        cli.build_task(task_config(task))


@pytest.mark.parametrize("task", ["math:pi", "vilbert_jax.tasks.vqa:NUM_TOP_ANSWERS", "json:dumps", "pathlib:Path"])
def test_what_is_no_task_is_refused(task):
    with pytest.raises(InputError, match="not a task"):
        cli.build_task(task_config(task))


def test_settings_that_cannot_work_are_refused_while_the_task_is_built():
    with pytest.raises(InputError, match="text_length is 1"):
        cli.build_task(task_config("vilbert_jax.tasks.vqa:VQA", text_length=1))
    with pytest.raises(InputError, match="passes is 'x'"):
        cli.build_task(task_config("vilbert_jax.tasks.vcr:VCR", passes="x"))


def test_further_arguments_win_over_the_config():
    @dataclasses.dataclass
    class Two:
        steps: int
        name: str = "unset"

    assert cli.build(Two, ConfigDict({"steps": 3, "other": 1})) == Two(3)
    assert cli.build(Two, ConfigDict({"steps": 3, "name": "a"}), name="b") == Two(3, "b")
