"""``--plan`` as a user types it: a page of text, nothing trained and nothing written."""

import pathlib
import runpy

import jax
import pytest
import toy_tasks

import vilbert_jax as vj
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.model import init_params

ROOT = pathlib.Path(__file__).parents[2]
RATES = "flops=1e9,memory_rate=1e9,link_rate=1e9"
STREAM = vj.StreamConfig(width=8, num_layers=1, num_heads=2, mlp_dim=8)
CONFIG = vj.ViLBERTConfig.tiny(
    text=STREAM, regions=STREAM, text_co_layers=(0,), region_co_layers=(0,), co_width=8, co_num_heads=2,
    vocab_size=5 + len(toy_tasks.WORDS), region_feature_dim=toy_tasks.FEATURE_DIM, region_target_dim=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The toy data of VQA, and an untrained model to start from."""
    root = tmp_path_factory.mktemp("toys")
    toy_tasks.write_all(root)
    model = vj.ViLBERTForPretraining(CONFIG)
    facts = {"tokenizer": load_tokenizer(root / "vocab.txt"), "contract": toy_tasks.CONTRACT}
    vj.save_pretrained(root / "pretrained", model, init_params(model, jax.random.key(1)), **facts)
    return root


def plan(root, workdir, *flags, capfd):
    main = runpy.run_path(str(ROOT / "experiments" / "finetune.py"))
    given = {"annotations": "toy_vqa", "regions": "toy_regions", "vocab": root / "vocab.txt", "data_dir": root}
    given |= {"batch_size": 16, "text_length": 16, "max_regions": 3, "num_workers": 0, "train_split": "train"}
    given |= {"eval_split": "validation"}
    given |= {"init_from": root / "pretrained", "total_steps": 4, "eval_every": 2, "checkpoint_every": 2}
    arguments = ["finetune.py", f"--config={ROOT / 'configs' / 'vqa.py'}", f"--workdir={workdir}", "--plan"]
    arguments += [f"--config.{key}={value}" for key, value in given.items()]
    with pytest.raises(SystemExit) as exit_info:
        main["cli"].run(main["main"], [*arguments, *flags], trains=True)
    return exit_info.value.code, capfd.readouterr()


def test_a_plan_is_printed_and_nothing_else_happens(root, tmp_path, capfd):
    workdir = tmp_path / "run"
    code, said = plan(root, workdir, f"--rates={RATES},memory=1e12", capfd=capfd)
    assert code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("run          4 steps of 16 examples")
    titles = [line.split("  ")[0] for line in lines if not line.startswith(" ")]
    assert titles == [
        "run", "model", "an example", "data", "devices", "memory", "sent a step", "rates", "a step", "to the end",
        "checkpoints", "not known",
    ]  # fmt: skip
    assert "heads: vqa" in said.out
    assert "it fits" in said.out
    assert len(lines) <= 50
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rates=speed=1"], "Write name=number"),
        (["--config.batch_size=12"], "batch_size 12 must be a multiple"),
    ],
)
def test_what_training_would_refuse_a_plan_refuses(root, tmp_path, flags, words, capfd):
    code, said = plan(root, tmp_path, *flags, capfd=capfd)
    assert code == 2
    assert words in said.err
