"""Pre-training that starts from other weights: ``config.init_from`` of experiments/pretrain.py."""

import contextlib
import dataclasses
import functools
import io
import json
import runpy
import shutil
from typing import NamedTuple

import jax
import numpy as np
import pytest
import test_pretrain
from flax import traverse_util

import vilbert_jax as vj
from tfds_builders.scenes import vocabulary
from vilbert_jax import cli
from vilbert_jax.checkpoints.conversion import abstract_params
from vilbert_jax.checkpoints.exporting import export_bert, export_released
from vilbert_jax.checkpoints.folder import read_contents
from vilbert_jax.checkpoints.pretrained import InitConfig, prepare_init
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.model import init_params
from vilbert_jax.paths import named_leaves

data = test_pretrain.data  # the fixture
SEED = 5
FLAGS = (
    test_pretrain.TINY, *test_pretrain.SMALLER, f"--config.seed={SEED}", "--config.total_steps=2",
    "--config.checkpoint_every=1", "--config.optimizer.learning_rate=0.0",
)  # fmt: skip
MODEL = vj.ViLBERTForPretraining(vj.ViLBERTConfig.from_dict(cli.parse(["pretrain.py", *FLAGS])[0].model.to_dict()))
HEADS = ("tokens", "regions", "alignment")
TOKENIZER = load_tokenizer(vocabulary.FILE)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def pretrain(*flags):
    """Runs the command in this process, without its pictures, which have tests of their own."""
    main = runpy.run_path(test_pretrain.PRETRAIN)
    main["main"].__globals__.update(draw_examples=lambda *_, **__: None, write_report=lambda *_: None)
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        pytest.raises(SystemExit) as exit_info,
    ):
        main["cli"].run(main["main"], ["pretrain.py", *FLAGS, *map(str, flags)])
    return Outcome(exit_info.value.code or 0, out.getvalue(), err.getvalue())


def start(data, workdir, init_from, *flags):
    return pretrain(f"--config.data_dir={data}", f"--workdir={workdir}", f"--config.init_from={init_from}", *flags)


def params_of(path):
    source = open_source(path)
    return source.read({name: np.empty(shape, np.float32) for name, shape in source.shapes.items()})


def random_params(seed):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(0, 0.1, leaf.shape).astype("f4") for path, leaf in abstract_params(MODEL).items()}


@functools.cache
def fresh_params():
    """What the run's seed gives, up to rounding: here it is not compiled for eight devices."""
    init = jax.jit(functools.partial(init_params, MODEL))
    return named_leaves(init(jax.random.split(jax.random.key(SEED))[0]))


def origins(said):
    """Part of the model -> where the printed table says that it comes from."""
    rows = [line.split("  ") for line in said.splitlines() if " M  " in line]
    return {row[1]: row[-1] for row in rows}


def contract_of(data):
    return RegionStore(data / "scenes" / "regions_small").contract


def prepared(data, workdir, **fields):
    """What a run starts from, given what its seed gives; nothing is run."""
    initialise = prepare_init(InitConfig(**fields), MODEL, workdir, tokenizer=TOKENIZER, contract=contract_of(data))
    assert initialise is not None
    return initialise(traverse_util.unflatten_dict(fresh_params(), sep="/"))


def in_text(path):
    return path.startswith(("trunk/text_embeddings/", "trunk/encoder/text_layer_", "token_head/"))


def write_bert(folder, params, tokenizer=TOKENIZER):
    export_bert(folder, MODEL.config, dict(params), tokenizer)
    return folder


@pytest.fixture(scope="module")
def from_bert(data, tmp_path_factory):
    """A run of two steps that change nothing, from a BERT: its work directory, the BERT and what was printed."""
    folder = tmp_path_factory.mktemp("from_bert")
    bert = write_bert(folder / "bert", random_params(1), tokenizer=None)
    shutil.copy(vocabulary.FILE, bert / "vocab.txt")  # as those who trained it publish it
    outcome = start(data, folder / "run", bert)
    assert outcome.code == 0, outcome.err
    return folder / "run", bert, outcome.out


def test_the_text_stream_is_the_berts_and_the_rest_is_fresh(from_bert):
    workdir, _, _ = from_bert
    bert, fresh, found = random_params(1), fresh_params(), params_of(workdir)
    assert found.keys() == bert.keys()
    assert sum(map(in_text, found)) > 30
    for path, array in found.items():
        if in_text(path):
            np.testing.assert_array_equal(array, bert[path], err_msg=path)
        else:
            np.testing.assert_allclose(array, fresh[path], rtol=1e-5, atol=1e-8, err_msg=path)


def test_what_comes_from_where_is_printed(from_bert):
    _, bert, said = from_bert
    assert f"starting from {bert}, a BERT:" in said
    assert origins(said) == {
        "text embeddings": f"from {bert}", "text layers": f"from {bert}", "token head": f"from {bert}",
        "region embeddings": "fresh", "region layers": "fresh", "co-attention layers": "fresh",
        "text pooler": "fresh", "region pooler": "fresh", "alignment head": "fresh", "region head": "fresh",
    }  # fmt: skip


def test_the_checkpoint_says_where_it_came_from_and_stands_alone(from_bert, data):
    workdir, bert, _ = from_bert
    origin = read_contents(workdir / "checkpoints" / "1").provenance["init_from"]
    assert origin["source"] == str(bert)
    assert origin["files"].keys() == {"model.safetensors"}
    source = open_source(workdir)
    assert source.config == MODEL.config
    assert source.features == contract_of(data).to_json()
    assert source.vocab is not None
    assert load_tokenizer(source.vocab).fingerprint == TOKENIZER.fingerprint


def test_a_resumed_run_does_not_read_it_again(from_bert, data, tmp_path):
    workdir, bert, _ = from_bert
    copy = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "2")
    bert.rename(bert.with_name("away"))
    try:
        outcome = start(data, copy, bert)
    finally:
        bert.with_name("away").rename(bert)
    assert outcome.code == 0, outcome.err
    assert "starting from" not in outcome.out
    first, second = (read_contents(copy / "checkpoints" / step).provenance for step in "12")
    assert first == second
    before, after = params_of(workdir), params_of(copy / "checkpoints" / "2")
    assert all(np.array_equal(before[path], after[path]) for path in before)


@pytest.mark.parametrize("other", ["", "elsewhere"])
def test_another_origin_in_the_same_workdir_is_refused(other, from_bert, data):
    workdir, bert, _ = from_bert
    outcome = start(data, workdir, other)
    assert outcome.code == 2
    assert f'init_from: checkpoint "{bert}", this run' in outcome.err
    assert "another --workdir" in outcome.err


def test_a_run_starts_from_a_released_file_but_for_the_heads_named_fresh(data, tmp_path):
    released, params = tmp_path / "m.safetensors", random_params(2)
    export_released(released, MODEL.config, HEADS, dict(params))
    outcome = start(data, tmp_path / "run", released, "--config.fresh_heads=regions,alignment")
    assert outcome.code == 0, outcome.err
    assert "a released ViLBERT (pre-training):" in outcome.out
    table = origins(outcome.out)
    assert {part for part, origin in table.items() if origin == "fresh"} == {"region head", "alignment head"}
    assert set(table.values()) == {"fresh", f"from {released}"}
    found, fresh = params_of(tmp_path / "run"), fresh_params()
    for path, array in found.items():
        if path.startswith(("region_head/", "alignment_head/")):
            np.testing.assert_allclose(array, fresh[path], rtol=1e-5, atol=1e-8, err_msg=path)
        else:
            np.testing.assert_array_equal(array, params[path], err_msg=path)


def test_a_run_starts_from_a_run(from_bert, data, tmp_path):
    workdir, _, _ = from_bert
    initial = prepared(data, tmp_path / "run", init_from=str(workdir))
    before, found = params_of(workdir), named_leaves(initial.params)
    assert all(np.array_equal(found[path], before[path]) for path in before)
    assert set(origins(initial.summary).values()) == {f"from {workdir}"}
    earlier = initial.provenance["init_from"]["init_from"]  # of the run that it starts from
    assert earlier["source"] == str(from_bert[1])


# --- what cannot be started from


def other_config(**text):
    return dataclasses.replace(MODEL.config, text=dataclasses.replace(MODEL.config.text, **text))


def headless(folder):
    return write_bert(folder / "bert", {path: x for path, x in random_params(1).items() if path[:5] != "token"})


def shuffled(folder):
    pieces = vocabulary.FILE.read_text().splitlines()
    (folder / "vocab.txt").write_text("\n".join([*pieces[:5], *pieces[:4:-1]]) + "\n")
    return write_bert(folder / "bert", random_params(1), load_tokenizer(folder / "vocab.txt"))


def with_other_activation(folder):
    bert = write_bert(folder / "bert", random_params(1))
    fields = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(fields | {"hidden_act": "relu", "num_attention_heads": 2}))
    return bert


def wider(folder):
    model = vj.ViLBERTForPretraining(other_config(width=20, mlp_dim=24))
    params = {path: np.zeros(leaf.shape, "f4") for path, leaf in abstract_params(model).items()}
    export_bert(folder / "bert", model.config, params, None)
    return folder / "bert"


def truncated(folder):
    bert = write_bert(folder / "bert", random_params(1))
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return bert


def plain(folder):
    return write_bert(folder / "bert", random_params(1))


@pytest.mark.parametrize(
    ("make", "flags", "words"),
    [
        (headless, [], ["missing: token_head/bias", "fresh: tokens"]),
        (shuffled, [], ["another vocabulary", "--config.vocab="]),
        (with_other_activation, [], ["text.activation is relu", "text.num_heads is 2"]),
        (wider, [], ["misshaped: trunk/text_embeddings/word_embeddings/embedding", "20]", "16]"]),
        (truncated, [], ["damaged or truncated"]),
        (plain, ["--config.fresh_heads=token"], ["fresh names token", "tokens, regions, alignment"]),
        (lambda folder: folder / "absent", [], ["there is nothing at"]),
        (lambda folder: folder, [], ["neither a checkpoint of this project"]),
    ],
    ids=["headless", "vocabulary", "function", "wider", "truncated", "fresh_heads", "absent", "empty"],
)
def test_what_does_not_fit_is_one_message_before_anything_is_written(make, flags, words, data, tmp_path):
    (tmp_path / "source").mkdir()
    outcome = start(data, tmp_path / "run", make(tmp_path / "source"), *flags)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_bert_without_the_word_head_starts_with_a_fresh_one(data, tmp_path):
    initial = prepared(data, tmp_path / "run", init_from=str(headless(tmp_path)), fresh_heads="tokens")
    found, bert, fresh = named_leaves(initial.params), random_params(1), fresh_params()
    for path in found:
        expected = bert if in_text(path) and not path.startswith("token_head") else fresh
        np.testing.assert_array_equal(found[path], expected[path], err_msg=path)
    assert origins(initial.summary)["token head"] == "fresh"


def test_other_region_features_are_refused_unless_allowed(data, tmp_path):
    contract = contract_of(data)
    other = dataclasses.replace(contract, detector="another", layer="fc6")
    params = traverse_util.unflatten_dict(random_params(3), sep="/")
    vj.save_pretrained(tmp_path / "theirs", MODEL, params, tokenizer=TOKENIZER, contract=other)
    outcome = start(data, tmp_path / "run", tmp_path / "theirs")
    assert outcome.code == 2
    for words in ("other region features", f"detector: {contract.detector!r} here, 'another' there", "layer:"):
        assert words in outcome.err
    assert "--config.allow_other_features=True" in outcome.err
    assert not (tmp_path / "run").exists()
    prepared(data, tmp_path / "run", init_from=str(tmp_path / "theirs"), allow_other_features=True)
    vj.save_pretrained(tmp_path / "ours", MODEL, params, tokenizer=TOKENIZER, contract=contract)
    prepared(data, tmp_path / "run", init_from=str(tmp_path / "ours"))
