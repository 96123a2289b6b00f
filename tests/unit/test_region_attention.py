"""The attention that pictures of an evaluation show: of [CLS], over the regions of the text's own picture."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_pretraining as tiny
import toy_splits as toy

import vilbert_jax as vj
from vilbert_jax.model import init_params
from vilbert_jax.tasks.region_attention import attended_regions
from vilbert_jax.tasks.retrieval import Retrieval

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return toy.write_vocab(tmp_path_factory.mktemp("vocab"))


def small_model(source, heads, **changes):
    changes = {"vocab_size": source.examples.tokenizer.vocab_size, "num_vqa_answers": len(toy.ANSWERS), **changes}
    changes["region_feature_dim"] = source.examples.contract.feature_dim
    model = vj.ViLBERTForTasks(dataclasses.replace(tiny.CONFIG, **changes), heads)
    return model, init_params(model, jax.random.key(0))


def test_attention_is_that_of_cls_in_the_last_layer(vocab):
    task, source = toy.vqa(vocab)
    model, params = small_model(source, task.heads)
    (found,) = attended_regions(task, model, params, source, [3])
    batch = {name: value[None] for name, value in source.example(3, RNG).items()}
    apply = jax.jit(
        lambda: model.apply({"params": params}, task.inputs(batch), deterministic=True, mutable=["intermediates"])
    )
    layer = apply()[1]["intermediates"]["trunk"]["encoder"]["co_layer_1"]
    probabilities = np.asarray(layer["text_attention"]["attention_probs"][0])  # [B,N,T,S]
    np.testing.assert_allclose(found, probabilities[0, :, 0, :5].mean(axis=0), atol=1e-6)


def test_with_one_stream_attention_is_the_share_that_goes_to_regions(vocab):
    task, source = toy.vqa(vocab)
    model, params = small_model(source, task.heads, num_streams=1)
    (found,) = attended_regions(task, model, params, source, [3])
    batch = {name: value[None] for name, value in source.example(3, RNG).items()}
    _, sown = model.apply({"params": params}, task.inputs(batch), deterministic=True, mutable=["intermediates"])
    (probabilities,) = sown["intermediates"]["trunk"]["encoder"]["layer_1"]["attention"]["attention_probs"]
    length = batch["token_ids"].shape[1]
    to_regions = np.asarray(probabilities)[0, :, 0, length : length + 5].mean(axis=0)  # [CLS] over slots in use
    assert to_regions.sum() < 0.95  # the words have their share
    np.testing.assert_allclose(found, to_regions / to_regions.sum(), atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"use_coattention": False}, {"num_task_embeddings": 3}, {"num_streams": 1}], ids=str
)
def test_attention_covers_the_slots_in_use(vocab, changes):
    task, source = toy.vqa(vocab)
    found = attended_regions(task, *small_model(source, task.heads, **changes), source, [0, 4, 5])
    assert [len(shares) for shares in found] == [2, 6, 7]  # picture k has k + 1 boxes
    for shares in found:
        assert shares.sum() == pytest.approx(1, abs=1e-5)
        assert (np.ptp(shares) > 1e-3) == changes.get("use_coattention", True)


def test_attention_is_that_of_the_chosen_option(vocab):
    """In another order of the choices another row of the model is chosen, and the text in it is the same."""
    choices = ("red", "blue", "circle", "square")
    task, source = toy.vcr(vocab, passes="answer")
    model, params = small_model(source, task.heads)
    expected = attended_regions(task, model, params, source, [0, 1, 2, 3])
    for shift in (1, 2, 3):
        _, turned = toy.vcr(vocab, passes="answer", choices=choices[shift:] + choices[:shift])
        found = attended_regions(task, model, params, turned, [0, 1, 2, 3])
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_attention_of_a_caption_is_on_its_own_picture(vocab):
    task, source = toy.retrieval(vocab)
    model, params = small_model(source, task.heads)

    class ThirdIsBest(Retrieval):
        """Prefers the pair with another picture."""

        def predict(self, logits, batch):
            return {"shares": jax.numpy.array([[0.0, 0.0, 1.0, 0.0]] * 2)}

    for chosen in (task, ThirdIsBest(data=task.data)):
        found = attended_regions(chosen, model, params, source, [0, 11])
        assert [len(shares) for shares in found] == [2, 7]
