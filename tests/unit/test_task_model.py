"""Every task on a whole model: padding, order, blanked pictures, task tokens; and what a run belongs to."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_weights
import toy_tasks as toy

import vilbert_jax as vj
from vilbert_jax.data import Dataset
from vilbert_jax.errors import InputError
from vilbert_jax.evaluation.results import describe, require_whole_split
from vilbert_jax.losses import mean
from vilbert_jax.tasks import retrieval
from vilbert_jax.tasks.grounding import Grounding
from vilbert_jax.tasks.retrieval import Retrieval
from vilbert_jax.tasks.task import LOSS, check_fit, identity, make_loss_fn, make_predict_fn, model_inputs
from vilbert_jax.tasks.vcr import VCR
from vilbert_jax.tasks.vqa import VQA

STREAM = vj.StreamConfig(width=8, num_layers=1, num_heads=2, mlp_dim=8, dropout_rate=0.0, attention_dropout_rate=0.0)
CONFIG = vj.ViLBERTConfig.tiny(
    text=STREAM, regions=STREAM, text_co_layers=(0,), region_co_layers=(0,), co_width=8, co_num_heads=2,
    vocab_size=5 + len(toy.WORDS), region_feature_dim=toy.FEATURE_DIM, region_target_dim=4,
    num_vqa_answers=len(toy.ANSWERS), initializer_range=0.5,
)  # fmt: skip
TASKS = {
    "vqa": (VQA, "toy_vqa", "validation", {}),
    "vcr": (VCR, "toy_choice", "train", {"passes": "both"}),
    "grounding": (Grounding, "toy_expressions", "validation", {}),
    "retrieval": (Retrieval, "toy_retrieval", "train", {}),
    "zero-shot": (Retrieval, "toy_retrieval", "train", {"head": "alignment"}),
}
every_task = pytest.mark.parametrize("name", TASKS)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    toy.write_all(folder)
    return folder


def make_task(root, name, settings=None, **fields):
    cls, annotations, _, usual = TASKS[name]
    data = toy.examples_config(root, annotations, **({"text_length": 16} | fields))
    return cls(data=data, **(usual if settings is None else settings))


def opened(task, name):
    return task.open(TASKS[name][2], training=False)


def batch_of(task, name, rows=2):
    return Dataset(opened(task, name), batch_size=rows, seed=0, shuffle=False)[0]


def outcomes(task, *batches, config=CONFIG):
    """Of each batch the predictions and the mean loss of one and the same model, without dropout."""
    model = vj.ViLBERTForTasks(config, task.heads)
    params = tiny_weights.nested({path: x / 2 for path, x in tiny_weights.random_params(model).items()})

    @jax.jit
    def run(params, batch):
        output = model.apply({"params": params}, model_inputs(task, model, batch), deterministic=True)
        return make_predict_fn(task, model)(params, batch), mean(task.loss(output.logits, batch))

    return [jax.device_get(run(params, batch)) for batch in batches]


@every_task
def test_padding_and_the_order_of_a_batch_change_nothing(root, name):
    task, wide = make_task(root, name, max_regions=4), make_task(root, name, max_regions=7, text_length=19)
    batch = batch_of(task, name)
    turned = {field: values[::-1].copy() for field, values in batch.items()}
    (predictions, loss), (longer, longer_loss), (turned, turned_loss) = outcomes(
        task, batch, batch_of(wide, name), turned
    )
    np.testing.assert_allclose([longer_loss, turned_loss], loss, rtol=2e-5)
    for field, values in predictions.items():
        np.testing.assert_allclose(longer[field], values, rtol=2e-5, atol=1e-6, err_msg=field)
        np.testing.assert_allclose(turned[field][::-1], values, rtol=2e-5, atol=1e-6, err_msg=field)
        assert values.shape[0] == 2
    assert any(np.ptp(values.astype(float), axis=0).any() for values in predictions.values())  # rows differ


@every_task
def test_a_blanked_picture_leaves_what_the_texts_say(root, name):
    """Regions of two different pictures are the same, field by field, so nothing of them can reach the model."""
    blank = batch_of(make_task(root, name, blank_pictures=True), name, rows=3)
    seen = batch_of(make_task(root, name), name, rows=3)
    for field in ("stored_features", "feature_scales", "global_feature", "region_boxes", "region_mask"):
        rows = blank[field].reshape(-1, *blank[field].shape[2 if name in ("retrieval", "zero-shot") else 1 :])
        assert (rows == rows[:1]).all(), field
        assert field == "region_mask" or not (seen[field] == blank[field]).all()
    for field in ("token_ids", "token_types", "text_mask"):
        np.testing.assert_array_equal(blank[field], seen[field])


def test_a_row_that_only_fills_the_batch_costs_nothing(root):
    task = make_task(root, "vqa")
    three = Dataset(opened(task, "vqa"), batch_size=3, seed=0, shuffle=False)[0]
    four = Dataset(opened(task, "vqa"), batch_size=4, seed=0, shuffle=False)[0]
    assert four["example_mask"].tolist() == [True] * 3 + [False]
    (_, whole), (_, filled) = outcomes(task, three, four)
    assert filled == pytest.approx(float(whole), rel=1e-5)


def test_a_model_with_task_tokens_reads_that_of_the_task(root):
    config = dataclasses.replace(CONFIG, num_task_embeddings=3)
    tasks = [make_task(root, "vqa", task_token=token) for token in (1, 2)]
    first, other = (outcomes(task, batch_of(task, "vqa"), config=config)[0][0]["shares"] for task in tasks)
    assert np.abs(first - other).max() > 1e-4


def test_training_drops_out_and_evaluation_does_not(root):
    task = make_task(root, "grounding")
    model = vj.ViLBERTForTasks(CONFIG, task.heads)
    params, batch = tiny_weights.nested(tiny_weights.random_params(model)), batch_of(task, "grounding")
    loss_fn = jax.jit(make_loss_fn(task, model))
    losses = [loss_fn(params, batch, jax.random.key(seed)) for seed in (1, 1, 2)]
    assert [*losses[0]] == [LOSS]
    assert float(losses[0][LOSS].weight) == 2
    first, again, other = (float(loss[LOSS].sum) for loss in losses)
    assert first == again != other


# --- what belongs together


@pytest.mark.parametrize(
    ("config", "fields", "words"),
    [
        ({}, {}, None),
        ({"vocab_size": 9}, {}, "model.vocab_size is 9, .* set --config.model.vocab_size=28"),
        ({"region_feature_dim": 5}, {}, "model.region_feature_dim is 5"),
        ({"max_text_length": 15}, {}, "text_length is 16, the model has 15 positions"),
        ({"num_task_embeddings": 2}, {"task_token": 2}, r"task_token is 2, the model has task tokens 0\.\.1"),
        ({"num_task_embeddings": 2}, {"task_token": 1}, None),
        ({}, {"task_token": 9}, None),  # a model without task tokens reads none
    ],
)
def test_a_model_must_fit_the_data(root, config, fields, words):
    task = make_task(root, "vqa", **fields)
    arguments = (dataclasses.replace(CONFIG, **config), task, opened(task, "vqa").examples)
    if words is None:
        check_fit(*arguments)
        return
    with pytest.raises(InputError, match=words):
        check_fit(*arguments)


def identity_of(root, name="vqa", *, settings=None, outputs=None, init_from="", config=CONFIG, **fields):
    task = make_task(root, name, settings, **fields)
    return identity(config, task, opened(task, name).examples, outputs or {}, init_from)


def test_a_run_belongs_to_its_model_data_answers_and_origin(root):
    usual = identity_of(root, outputs={"vqa": ("a", "b")}, init_from="there")
    assert usual == identity_of(root, outputs={"vqa": ("a", "b")}, init_from="there", batch_size=7)
    assert usual["outputs"] == {"vqa": ["a", "b"]}
    others = [
        identity_of(root, outputs={"vqa": ("b", "a")}, init_from="there"),
        identity_of(root, outputs={"vqa": ("a", "b")}, init_from="elsewhere"),
        identity_of(root, outputs={"vqa": ("a", "b")}),
        identity_of(root, outputs={"vqa": ("a", "b")}, init_from="there", blank_pictures=True),
        identity_of(
            root, outputs={"vqa": ("a", "b")}, init_from="there", config=dataclasses.replace(CONFIG, fusion="sum")
        ),
        identity_of(root, outputs={"vqa": ("a", "b")}, init_from="there", settings={"rules": "2017"}),
    ]
    assert all(other != usual for other in others)


def test_runs_on_the_same_rows_for_different_ends_are_different(root):
    found = [identity_of(root, "vcr", settings={"passes": passes}) for passes in ("answer", "rationale", "both")]
    found.append(identity_of(root, "grounding"))
    found.append(identity_of(root, "grounding", settings={"whole_image": False}))
    assert all(one != other for k, one in enumerate(found) for other in found[:k])


def test_an_evaluation_covers_the_whole_split_or_says_that_it_does_not(root, tmp_path):
    task = make_task(root, "vqa")
    require_whole_split(opened(task, "vqa").examples, allow_missing=False)
    holey = task.open("holey", training=False).examples
    with pytest.raises(
        InputError, match="'holey' of 'toy_vqa' has 2 rows, .*toy_regions.* no image for 1 .*allow_missing"
    ):
        require_whole_split(holey, allow_missing=False)
    require_whole_split(holey, allow_missing=True)
    facts = describe(task, holey)
    assert (facts["examples_of_split"], facts["examples_missing"]) == (2, 1)
    assert facts["task"] == "vilbert_jax.tasks.vqa:VQA"
    assert facts["settings"] == {"rules": "2021", "answer_labels": ""}
    toy.write_regions(tmp_path, "fewer", {"kite": toy.GIVEN["kite"]})
    vcr = make_task(root, "vcr", given_regions=str(tmp_path / "fewer"))
    with pytest.raises(InputError, match="toy_regions.* or .*fewer.* has no image for 1 of them"):
        require_whole_split(opened(vcr, "vcr").examples, allow_missing=False)


def test_hard_negatives_are_found_once_and_kept_beside_the_data(root, monkeypatch):
    task = make_task(root, "retrieval", {"num_hard": 2})
    found = task.open("train", training=True).neighbours
    means = np.array([np.mean(picture.features, axis=0) for picture in toy.DETECTED.values()])
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1) + np.diag(np.full(4, np.inf))
    np.testing.assert_array_equal(found, np.argsort(distances, axis=1, kind="stable")[:, :2])
    assert [*root.rglob("hard_negatives/*")]
    monkeypatch.setattr(retrieval, "load_or_find", None)
    assert task.open("train", training=False).neighbours is None
