"""Predictions of a whole split: every example once, in order, whatever the batches and the mesh."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training as toy

from vilbert_jax.errors import InputError
from vilbert_jax.sharding import MeshConfig, make_mesh, state_shardings
from vilbert_jax.training.evaluation import PredictionEvaluation
from vilbert_jax.training.prediction import make_predict_step, predict_all

NUM_EXAMPLES = 20
MESHES = [MeshConfig(), MeshConfig(data=1, fsdp=8), MeshConfig(data=1, tensor=8), MeshConfig(data=2, fsdp=2, tensor=2)]


def make_params():
    params = toy.init_params(jax.random.key(0))
    params["alignment_head"]["kernel"] = jax.random.normal(jax.random.key(1), (toy.WIDTH, toy.CLASSES))
    return params


PARAMS = make_params()


def predict_fn(params, batch):
    scores = toy.forward(params, batch)
    return {"scores": scores, "guess": scores.argmax(-1).astype(jnp.int32), "id": batch["ids"]}


def make_batches(size: int, order=None, num_examples: int = NUM_EXAMPLES):
    """The split in batches of ``size``; rows that fill up the last one repeat example 0 and are masked."""
    order = np.arange(num_examples) if order is None else np.asarray(order)
    examples = toy.make_batch(5, rows=NUM_EXAMPLES)
    for start in range(0, len(order), size):
        index = np.zeros(size, np.int32)
        real = order[start : start + size]
        index[: len(real)] = real
        yield {
            "ids": examples["ids"][index % NUM_EXAMPLES],
            "example_index": index,
            "example_mask": np.arange(size) < len(real),
        }


def predict(batches, mesh_config: MeshConfig = MESHES[0], num_examples: int = NUM_EXAMPLES, fn=predict_fn, **more):
    mesh = make_mesh(mesh_config)
    shardings = state_shardings(PARAMS, mesh)
    step = make_predict_step(fn, mesh, shardings)
    return predict_all(step, jax.device_put(PARAMS, shardings), batches, mesh, num_examples, **more)


@pytest.fixture(scope="module")
def expected():
    examples = toy.make_batch(5, rows=NUM_EXAMPLES)
    return jax.device_get(jax.jit(predict_fn)(PARAMS, examples))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("size", [8, 16, 24])
def test_any_mesh_and_batch_size_give_row_n_for_example_n(expected, mesh, size):
    found = predict(make_batches(size), mesh)
    assert set(found) == {"scores", "guess", "id"}
    assert {name: (value.dtype, value.shape) for name, value in found.items()} == {
        "scores": (np.float32, (NUM_EXAMPLES, toy.CLASSES)),
        "guess": (np.int32, (NUM_EXAMPLES,)),
        "id": (np.int32, (NUM_EXAMPLES,)),
    }
    np.testing.assert_array_equal(found["id"], expected["id"])
    np.testing.assert_array_equal(found["guess"], expected["guess"])
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-5, atol=1e-6)


def test_the_order_of_the_batches_does_not_matter(expected):
    order = np.random.default_rng(0).permutation(NUM_EXAMPLES)
    np.testing.assert_array_equal(predict(make_batches(8, order))["id"], expected["id"])


@pytest.mark.parametrize(
    ("order", "num_examples", "message"),
    [
        ([*range(19)], 20, "1 of 20 examples were not predicted, first number 19"),
        ([0, 2, 5], 6, "3 of 6 examples were not predicted, first number 1"),
        ([*range(20), 3], 20, "example number 3 came twice"),  # in another batch
        ([0, 1, 1], 2, "example number 1 came twice"),  # in the same one
        ([*range(20)], 19, r"hold example number 19, but the split has 19 examples \(from 0\)"),
        ([0, -1], 2, "hold example number -1"),
        ([], 3, "3 of 3 examples were not predicted"),
        ([], 0, "at least one example"),
    ],
)
def test_an_example_that_is_missing_or_repeated_is_an_error(order, num_examples, message):
    with pytest.raises(InputError, match=message):
        predict(make_batches(8, order), num_examples=num_examples)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda params, batch: {"total": batch["ids"].sum()}, r"8 rows as first dimension, but total has shape \(\)"),
        (lambda params, batch: {"half": batch["ids"][:4]}, r"but half has shape \(4,\)"),
        (lambda params, batch: {}, "but there is none"),
    ],
)
def test_predictions_without_a_row_for_each_example_are_an_error(fn, message):
    with pytest.raises(InputError, match=message):
        predict(make_batches(8), fn=fn)


@pytest.mark.parametrize("progress", [None, "predicting validation"])
def test_progress_is_shown_when_asked_for(capsys, progress):
    predict(make_batches(8), progress=progress)
    shown = capsys.readouterr().err
    if progress is None:
        assert shown == ""
    else:
        assert progress in shown
        assert "20/20" in shown


class Split:
    """A split as a run reads it; remembers how it was read."""

    def __init__(self, num_examples: int = NUM_EXAMPLES):
        self.source = range(num_examples)
        self.asked = []

    def iterate(self, first_step, *, workers=0):
        try:
            yield from make_batches(8)
        finally:
            self.asked.append((first_step, workers))


def test_an_evaluation_scores_all_predictions_on_the_host(expected):
    def score(predictions):
        assert all(isinstance(value, np.ndarray) for value in predictions.values())
        return {"right": np.float32((predictions["guess"] == expected["guess"]).mean()), "num": len(predictions["id"])}

    mesh, split = make_mesh(MESHES[-1]), Split()
    shardings = state_shardings(PARAMS, mesh)
    measure = PredictionEvaluation(predict_fn, score, split).compile(mesh, shardings)
    for _ in range(2):
        assert measure(jax.device_put(PARAMS, shardings), 3) == {"right": 1.0, "num": 20.0}
    assert split.asked == [(0, 3), (0, 3)]  # closed each time


def test_an_evaluation_on_fewer_examples_than_the_split_holds_is_refused():
    mesh = make_mesh(MESHES[0])
    shardings = state_shardings(PARAMS, mesh)
    evaluation = PredictionEvaluation(predict_fn, lambda predictions: {}, Split(NUM_EXAMPLES + 1))
    with pytest.raises(InputError, match="1 of 21 examples were not predicted"):
        evaluation.compile(mesh, shardings)(jax.device_put(PARAMS, shardings), 0)


def test_a_run_logs_the_score(tmp_path):
    split = types.SimpleNamespace(source=range(NUM_EXAMPLES), iterate=Split().iterate)
    evaluation = PredictionEvaluation(predict_fn, lambda predictions: {"ids": predictions["id"].sum()}, split)
    toy.run(tmp_path, evaluations={"held_out": evaluation})
    total = float(toy.make_batch(5, rows=NUM_EXAMPLES)["ids"].sum())
    scored = [row for row in toy.logged(tmp_path) if "eval/held_out/ids" in row]
    assert scored == [{"step": step, "eval/held_out/ids": total} for step in (4, 8, 12)]
