"""What benchmarks/ counts, draws and prints; not how fast anything is."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_weights import CONFIG

import vilbert_jax as vj
from vilbert_jax.model_size import forward_flops

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BENCHMARKS)
    import cpu
    import flops
    import lengths
    import made_up
    import score_pairs
    import train_step
    import turns

    if importlib.util.find_spec("torch"):
        import torch_vilbert

SERVED = """
import argparse, turns

def one_side(asked):
    print("chatter of a library")
    turn = iter(range(9))
    return {"factor": asked.factor}, lambda: {"turn": next(turn)}

def stops(asked):
    raise SystemExit(3)

parser = argparse.ArgumentParser()
parser.add_argument("--factor", type=int)
parser.add_argument("--repeats", type=int, default=2)
sides = [turns.Side("a"), turns.Side("b", needs="a_package_that_nobody_has")]
turns.compare(__file__, parser, lambda asked: sides, {"a": one_side, "b": stops}, lambda timed, asked: ",".join(timed))
"""


@pytest.mark.parametrize("count", [32, 1000])
def test_real_lengths_are_as_long_as_documented_in_batches_of_any_size(count):
    drawn = lengths.real(count)
    assert drawn.pieces.mean() + 2 == pytest.approx(14.4, abs=0.15)
    assert drawn.regions.mean() + 1 == pytest.approx(27.4, abs=0.15)
    assert 4 <= drawn.pieces.min() < drawn.pieces.max() <= 34
    assert drawn.regions.min() == 10
    assert drawn.regions.max() == 36
    assert 0.65 < np.mean((drawn.pieces >= 8) & (drawn.pieces <= 16)) < 0.9
    again = lengths.real(count)
    np.testing.assert_array_equal(drawn, again)
    assert not np.array_equal(drawn.pieces, lengths.real(count, seed=1).pieces)
    assert abs(np.corrcoef(drawn.pieces, drawn.regions)[0, 1]) < 0.3


def test_full_lengths_leave_no_padding():
    drawn = lengths.full(3)
    assert drawn.pieces.tolist() == [34] * 3
    assert drawn.regions.tolist() == [36] * 3


def test_made_up_batches_have_the_lengths_asked_for():
    config = vj.ViLBERTConfig.tiny()
    drawn = lengths.Lengths(np.array([4, 7, 12, 34]), np.array([10, 11, 36, 20]))
    batch = made_up.padded_batch(made_up.pairs(drawn, config, 4), 4)
    row = batch["example_index"]
    np.testing.assert_array_equal(batch["region_mask"].sum(axis=1), drawn.regions[row] + 1)
    tokens, matches = batch["text_mask"].sum(axis=1), batch["alignment_labels"] == 0
    np.testing.assert_array_equal(tokens[matches], drawn.pieces[row][matches] + 2)
    assert set(tokens) <= set(drawn.pieces + 2)
    assert batch["stored_features"].dtype == np.int8
    assert batch["token_ids"].shape == (4, lengths.TEXT_LENGTH)


def test_real_flops_leave_padding_out():
    drawn = lengths.Lengths(np.array([5, 5]), np.array([10, 10]))
    batch = made_up.padded_batch(made_up.pairs(drawn, CONFIG, 2), 2)
    words, regions = int(batch["token_label_mask"].sum()), int(batch["region_label_mask"].sum())
    trunk, heads = 2 * forward_flops(CONFIG, 7, 11), flops.head_flops(CONFIG, words, regions)
    assert flops.training_flops(CONFIG, batch) == 3 * (trunk + heads)
    everything = 2 * forward_flops(CONFIG, 36, 37) + flops.head_flops(CONFIG, 2 * 36, 2 * 37)
    assert flops.padded_training_flops(CONFIG, batch) == 3 * everything


def test_head_flops_are_those_of_the_compiled_heads():
    text, regions, count = CONFIG.text.width, CONFIG.region_width, 64
    shapes = [(text, text), (text, CONFIG.vocab_size), (regions, regions), (regions, CONFIG.region_target_dim)]

    def heads(words, slots, kernels):
        return words @ kernels[0] @ kernels[1], slots @ kernels[2] @ kernels[3]

    arguments = jnp.ones((count, text)), jnp.ones((count, regions)), [jnp.ones(shape) for shape in shapes]
    analysis = jax.jit(heads).lower(*arguments).cost_analysis()
    assert flops.head_flops(CONFIG, count, count) == analysis["flops"]


def run(code, tmp_path, *flags):
    script = tmp_path / "benchmark.py"
    script.write_text(code)
    environment = {"PYTHONPATH": str(BENCHMARKS), "PATH": ""}
    return subprocess.run([sys.executable, script, *flags], capture_output=True, text=True, env=environment)


def test_sides_take_turns_and_a_side_without_its_package_is_left_out(tmp_path):
    done = run(SERVED, tmp_path, "--factor=3")
    assert done.returncode == 0, done.stderr
    first, left_out, printed = done.stdout.splitlines()
    assert "cores" in first
    assert printed == "a"
    assert left_out == "b: left out, the package a_package_that_nobody_has is not installed"


def test_what_a_side_says_reaches_the_report(tmp_path, monkeypatch):
    script = tmp_path / "benchmark.py"
    script.write_text(SERVED)
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    timed = turns.take_turns(str(script), [turns.Side("a")], ["--factor=3"], repeats=2)["a"]
    assert timed.facts == {"factor": 3}
    assert timed.results == [{"turn": 1}, {"turn": 3}]  # each second time
    assert len(timed.seconds) == 2
    assert min(timed.seconds) >= 0
    assert timed.peak_bytes > 1e6


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system cannot forget a peak")
def test_what_was_given_back_before_the_work_does_not_count():
    np.ones(40_000_000).sum()  # 320 MB, for a moment
    most = turns.peak_bytes()
    turns.forget_peak()
    assert turns.peak_bytes() < most - 100_000_000


def test_a_side_that_dies_is_named(tmp_path, monkeypatch):
    script = tmp_path / "benchmark.py"
    script.write_text(SERVED)
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    with pytest.raises(RuntimeError, match="b ended with code 3"):
        turns.take_turns(str(script), [turns.Side("b")], ["--factor=3"], repeats=1)


def test_tables_are_aligned_markdown():
    assert turns.table(["", "s"], [["a", "1.5 (1-2)"]]).splitlines() == [
        "|   | s         |", "|---|-----------|", "| a | 1.5 (1-2) |",
    ]  # fmt: skip
    assert turns.spread([3.0, 1.0, 2.0]) == "2 (1-3)"


def timed(seconds, peak=2_000_000_000, facts=None, results=()):
    return turns.Timed(list(seconds), facts or {}, list(results), peak)


STEP_FACTS = {
    "device": "cpu", "compile_seconds": 12.34, "real_flops": 6e9, "padded_flops": 20e9, "mean_tokens": 14.4,
    "mean_slots": 27.4, "computed_share": {"text": 1.1, "regions": 1.05},
}  # fmt: skip


def test_the_report_of_a_step():
    sides = {
        "jax": timed([2.0, 2.0, 5.0], facts=STEP_FACTS, results=[{"loss": 1.0}]),
        "torch": timed([8.0], 6_000_000_000),
        "product": timed([1.0], results=[{"flops_a_second": 6e9}, {"flops_a_second": 5e9}]),
    }
    asked = train_step.arguments().parse_args(["--batch_size=32"])
    lines = train_step.report(sides, asked).splitlines()
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["jax", "2 (2-5)", "16", "2.00", "1.00"]
    assert [cell.strip() for cell in lines[4].split("|")[1:-1]] == ["torch", "8 (8-8)", "4", "6.00", "4.00"]
    assert lines[-1].endswith("3 GFLOP/s, 50% of it")
    without = {name: side for name, side in sides.items() if name != "torch"}
    assert "torch" not in train_step.report(without, asked)


def test_an_accelerator_s_own_memory_counts():
    assert train_step.memory(timed([1.0], results=[{"device_bytes": 7}, {"device_bytes": 9}])) == 9
    assert train_step.memory(timed([1.0], peak=5)) == 5


def test_the_report_of_scores_compares_rates_not_times():
    facts = {"device": "cpu", "pairs": 100, "flops_a_pair": 1e9, "mean_tokens": 14, "mean_slots": 27}
    scores = np.arange(100.0).reshape(10, 10)
    sides = {
        "score_all_pairs": timed([2.0], facts={**facts, "scores": scores.tolist()}),
        "scratch": timed([10.0], facts={**facts, "scores": (scores + 1e-6).tolist()}),
        "torch": timed([8.0], facts={"device": "cpu", "pairs": 64}),
    }
    text = score_pairs.report(sides, score_pairs.arguments().parse_args([]))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert [row[1] for row in cells[2:]] == ["50 (50-50)", "10 (10-10)", "8 (8-8)"]
    assert [row[3] for row in cells[2:]] == ["1.00", "5.00", "6.25"]
    assert "largest difference 1.0e-06" in text


def test_sides_of_a_checkpoint_are_those_that_read_it():
    def names(*flags):
        return [side.name for side in score_pairs.sides(score_pairs.arguments().parse_args(flags))]

    assert names("--checkpoint=runs/x") == ["score_all_pairs", "scratch"]
    assert names() == ["score_all_pairs", "torch", "torch_all_heads", "product"]


def test_every_script_that_make_bench_runs_knows_its_flags():
    for script, *flags in cpu.commands("tiny", 1):
        known = (BENCHMARKS / script).read_text()
        for flag in flags:
            assert f'"{flag.partition("=")[0]}"' in known, (script, flag)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_torch_scores_padded_pairs(monkeypatch):
    monkeypatch.setattr(score_pairs, "TORCH_PAIRS", 2)
    facts, work = score_pairs.torch_side(score_pairs.arguments().parse_args(["--size=tiny"]))
    assert facts == {"device": torch_vilbert.torch.device("cpu").type, "pairs": 2}
    assert work() is None
