import dataclasses

import jax
import numpy as np
import pytest
import tiny_pretraining as tiny
from PIL import Image
from test_pretraining_data import WORDS, Store, pairs

import vilbert_jax as vj
from vilbert_jax.data import PretrainingDataConfig, load_tokenizer
from vilbert_jax.data.pictures import pictures_in
from vilbert_jax.data.pretraining import PretrainingSource
from vilbert_jax.model import init_params
from vilbert_jax.tasks.pretraining_examples import NUM_GUESSES, draw_examples, guess_words


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    vocab = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    config = PretrainingDataConfig(
        annotations="toy", regions="toy", vocab=str(vocab), batch_size=2, text_length=10, max_regions=6
    )
    return PretrainingSource(pairs(), Store(), load_tokenizer(str(vocab)), config, {"colour": ["red"]})


@pytest.mark.parametrize("use_coattention", [True, False])
def test_guesses_are_ranked_and_attention_covers_the_real_regions(source, use_coattention, tmp_path):
    config = dataclasses.replace(
        tiny.CONFIG,
        vocab_size=source.tokenizer.vocab_size,
        region_feature_dim=source.contract.feature_dim,
        region_target_dim=source.target_dim,
        use_coattention=use_coattention,
    )
    model = vj.ViLBERTForPretraining(config)
    params = init_params(model, jax.random.key(0))
    guesses = guess_words(model, params, source, [0, 5])
    for guess, row in zip(guesses, [0, 5], strict=True):
        assert guess.tokens[guess.hidden] == "red"
        assert len(guess.words) == NUM_GUESSES
        assert (np.diff(guess.probs) <= 0).all()
        assert len(guess.attention) == len(source.probe(row).record.boxes) + 1
        assert guess.attention.sum() == pytest.approx(1, abs=1e-5)
    draw_examples(model, params, source, tmp_path / "examples.png", picture=pictures_in(""), num_examples=2)
    assert np.asarray(Image.open(tmp_path / "examples.png").convert("RGB")).std() > 5


def test_pictures_come_from_a_folder(tmp_path):
    Image.new("RGB", (5, 4), (200, 0, 0)).save(tmp_path / "one.png")
    load = pictures_in(str(tmp_path))
    found = load("one")
    assert found is not None
    assert found.shape == (4, 5, 3)
    assert load("two") is None
    with pytest.raises(vj.InputError, match="no folder"):
        pictures_in(str(tmp_path / "absent"))
