"""Several pairs in a row: nothing is lost, nothing changes, little is wasted."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_pretraining import CONFIG
from toy_pairs import F, R, T, make_config, source, write_vocab

import vilbert_jax as vj
from vilbert_jax.data.packing import PackingConfig, balanced, packed
from vilbert_jax.data.pipeline import Dataset
from vilbert_jax.errors import InputError
from vilbert_jax.losses import mean
from vilbert_jax.model import init_params
from vilbert_jax.nn.packing import Places
from vilbert_jax.tasks import pretraining
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from vilbert_jax.training.state import TrainState
from vilbert_jax.training.step import make_train_step

PAIRS, PER_ROW = 16, 4
LOSSES = ("token_loss", "region_loss", "alignment_loss")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Much to predict, so that rows differ in it."""
    vocab = write_vocab(tmp_path_factory.mktemp("vocab"))
    return dataclasses.replace(make_config(vocab), token_mask_rate=0.4, region_mask_rate=0.4)


def packed_pairs(pairs, *, num_parts=1, host_count=1, **changes):
    config = PackingConfig(**{"batch_size": PAIRS, "pairs_per_row": PER_ROW, "pairs_per_group": 8, **changes})
    return packed(pairs, config, num_parts=num_parts, host_count=host_count)


def batches(config, step=1, **kwargs):
    """The same examples unpacked and packed."""
    pairs = source(config)
    reading = {"batch_size": PAIRS, "seed": 0, "shuffle": True}
    return Dataset(pairs, **reading)[step], Dataset(packed_pairs(pairs, **kwargs), **reading)[step]


def tiny(config, **changes):
    model_config = dataclasses.replace(
        CONFIG, vocab_size=source(config).tokenizer.vocab_size, region_feature_dim=F,
        region_target_dim=source(config).target_dim, **changes,
    )  # fmt: skip
    model = vj.ViLBERTForPretraining(model_config)
    return model, jax.jit(lambda key: init_params(model, key))(jax.random.key(0))


def content(batch):
    """Of every pair of a packed batch, by its example: the words as the model reads them, the regions, the labels."""
    found = {}
    for g, row in enumerate(batch["text_places"]):
        ids = batch["token_ids"][g].ravel()
        for p in range(PER_ROW):
            (places,) = ((row > 0) & ((row - 1) // T == p)).nonzero()
            (region_places,) = (
                (batch["region_places"][g] > 0) & ((batch["region_places"][g] - 1) // (R + 1) == p)
            ).nonzero()
            words = (batch["token_label_mask"][g] & np.isin(batch["masked_positions"][g], places)).nonzero()[0]
            seen = (batch["region_label_mask"][g] & np.isin(batch["masked_regions"][g], region_places)).nonzero()[0]
            found[int(batch["example_index"][g, p])] = {
                "positions": (row[places] - 1) % T,
                "ids": ids[row[places] - 1],
                "regions": (batch["region_places"][g][region_places] - 1) % (R + 1),
                "masked": batch["masked_positions"][g][words] - places[0],
                "labels": batch["token_labels"][g][words],
                "masked_regions": batch["masked_regions"][g][seen] - region_places[0],
                "targets": batch["target_probs"][g][seen],
            }
    return found


def test_every_pair_keeps_everything(config):
    plain, rows = batches(config, step=0)
    found = content(rows)
    assert len(found) == PAIRS == len(set(plain["example_index"].tolist()))
    for i, index in enumerate(plain["example_index"].tolist()):
        pair = found[index]
        length, num_regions = plain["text_mask"][i].sum(), plain["region_mask"][i].sum()
        np.testing.assert_array_equal(pair["positions"], np.arange(length))
        np.testing.assert_array_equal(pair["ids"], plain["token_ids"][i][:length])
        np.testing.assert_array_equal(pair["regions"], np.arange(num_regions))
        predicted = plain["token_label_mask"][i]
        np.testing.assert_array_equal(pair["masked"], plain["masked_positions"][i][predicted])
        np.testing.assert_array_equal(pair["labels"], plain["token_labels"][i][predicted])
        (chosen,) = plain["region_label_mask"][i].nonzero()
        np.testing.assert_array_equal(pair["masked_regions"], chosen + 1)
        np.testing.assert_array_equal(pair["targets"], plain["target_probs"][i][chosen])
    assert rows["token_label_mask"].sum() == plain["token_label_mask"].sum() > 0
    assert rows["region_label_mask"].sum() == plain["region_label_mask"].sum() > 0
    assert rows["target_probs"].dtype == plain["target_probs"].dtype


@pytest.mark.parametrize("num_streams", [1, 2])
@pytest.mark.parametrize("objective", ["kl", "regression"])
@pytest.mark.parametrize("masked_losses_on", ["all", "aligned"])
def test_losses_are_those_of_the_unpacked_batch(config, objective, num_streams, masked_losses_on):
    if objective == "regression":
        config = dataclasses.replace(config, region_targets="features")
    with jax.enable_x64(True):
        model, params = tiny(config, region_objective=objective, num_streams=num_streams, dtype="float64")
        params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        loss_fn = jax.jit(pretraining.make_loss_fn(model, masked_losses_on))
        plain, rows = (jax.device_get(loss_fn(params, batch, jax.random.key(0))) for batch in batches(config))
    for name in ("token_loss", "region_loss"):  # the alignment head has dropout of its own
        np.testing.assert_allclose(rows[name].sum, plain[name].sum, rtol=1e-12)
        assert rows[name].weight == plain[name].weight > 0
    if num_streams == 1:
        np.testing.assert_allclose(rows["alignment_loss"].sum, plain["alignment_loss"].sum, rtol=1e-12)


def test_every_output_and_gradient_is_that_of_the_unpacked_pairs(config):
    plain, rows = batches(config, step=0)
    order = rows["example_index"].ravel()
    at = [plain["example_index"].tolist().index(index) for index in order]
    with jax.enable_x64(True):
        model, params = tiny(config, dtype="float64")
        params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        plain_inputs = jax.tree.map(lambda x: x[np.array(at)], pretraining.model_inputs(plain))
        places = Places(rows["text_places"], rows["region_places"])

        def outputs(params, inputs):
            output = model.apply({"params": params}, inputs, deterministic=True)
            encoded = output.encoded
            return output.alignment_logits, encoded.text_pooled, encoded.regions_pooled

        def objective(params, inputs):
            return sum((jnp.sin(x) * x).sum() for x in outputs(params, inputs))

        apart, together = plain_inputs, plain_inputs._replace(places=places)
        for one, other in zip(jax.jit(outputs)(params, apart), jax.jit(outputs)(params, together), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-12)
        grads, packed_grads = (jax.jit(jax.grad(objective))(params, inputs) for inputs in (apart, together))
        for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(packed_grads), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-11)


def test_microbatches_of_packed_rows_give_the_same_step(config):
    model, params = tiny(config)
    _, rows = batches(config)
    tx = make_optimizer(OptimizerConfig(), 100)

    def step(parts):
        step = make_train_step(
            pretraining.make_loss_fn(model, "all"), tx, jax.random.key(0), loss_weights=dict.fromkeys(LOSSES[:2], 1.0),
            learning_rate=make_schedule(OptimizerConfig(), 100), num_microbatches=parts,
        )  # fmt: skip
        return jax.jit(step)(TrainState(jnp.zeros([], jnp.int32), params, tx.init(params)), rows)[1]

    whole, parts = step(1), step(2)
    for name in (*LOSSES[:2], "grad_norm"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5)


def test_the_number_of_hosts_changes_nothing(config):
    pairs = source(config)
    whole = Dataset(packed_pairs(pairs), batch_size=PAIRS, seed=0, shuffle=True)[3]
    halves = [
        Dataset(
            packed_pairs(pairs, host_count=2), batch_size=PAIRS, seed=0, shuffle=True, host_index=host, host_count=2
        )[3]
        for host in range(2)
    ]
    for name, values in whole.items():
        lengths = [half[name].shape[1:] for half in halves]
        for half, part in zip(halves, np.split(values, 2), strict=True):
            # a host's rows may be shorter than those of the whole batch: what is missing is filler
            inside = tuple(slice(0, size) for size in half[name].shape)
            np.testing.assert_array_equal(half[name], part[inside])
            if part.ndim > 1 and half[name].shape[1] < part.shape[1]:
                assert not part[:, half[name].shape[1] :].any()
        assert lengths


def test_a_fuller_batch_is_longer_and_drops_nothing(config):
    usual = batches(config)[1]
    everything = dataclasses.replace(config, token_mask_rate=1.0, region_mask_rate=1.0)
    pairs, full = source(config), source(everything)
    rows = packed_pairs(pairs)
    crowded = Dataset(full, batch_size=PAIRS, seed=0, shuffle=True)[1]
    longer = rows.pack(crowded)  # by a source that expects less
    assert longer["token_label_mask"].sum() == crowded["token_label_mask"].sum()
    assert longer["region_label_mask"].sum() == crowded["region_label_mask"].sum()
    assert longer["masked_regions"].shape[1] >= usual["masked_regions"].shape[1]


def test_packed_sources_pickle_and_read_alike(config):
    rows = packed_pairs(source(config))
    again = pickle.loads(pickle.dumps(rows))
    one, other = (Dataset(one, batch_size=PAIRS, seed=0, shuffle=True)[2] for one in (rows, again))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert len(rows) == len(rows.pairs)


class Lengths:
    """Pairs with the lengths of Conceptual Captions and nothing else: 8 to 16 word pieces mostly, 10 to 36 regions."""

    def __init__(self, count=4096):
        rng = np.random.default_rng(0)
        pieces = np.clip(np.round(rng.lognormal(np.log(11.5), 0.38, count)), 1, 34).astype(int)
        self.text, self.regions = pieces + 2, np.clip(np.round(rng.normal(27, 9, count)), 10, 36).astype(int) + 1

        self.num_negatives = 0

    def __len__(self):
        return len(self.text)

    def example(self, index, rng):
        words = np.sort(rng.permutation(np.arange(1, self.text[index] - 1))[: rng.binomial(self.text[index] - 2, 0.15)])
        selected = (rng.random(36) < 0.15) & (np.arange(36) < self.regions[index] - 1)
        positions = np.zeros(16, np.int32)
        positions[: len(words)] = words[:16]
        return {
            "text_mask": np.arange(36) < self.text[index],
            "region_mask": np.arange(37) < self.regions[index],
            "masked_positions": positions,
            "token_labels": positions,
            "token_label_mask": np.arange(16) < len(words),
            "region_label_mask": selected,
        }


@pytest.mark.parametrize(("batch_size", "group", "largest"), [(512, 128, 1.15), (512, 512, 1.10), (32, 32, 1.15)])
def test_little_is_computed_besides_what_is_there(batch_size, group, largest):
    rows = packed_pairs(Lengths(), pairs_per_row=8, pairs_per_group=group, batch_size=batch_size)
    dataset = Dataset(rows, batch_size=batch_size, seed=0, shuffle=True)
    computed = real = 0
    shapes = set()
    for step in range(-(-2048 // batch_size)):
        batch = dataset[step]
        for places, mask in (("text_places", "text_mask"), ("region_places", "region_mask")):
            computed, real = computed + batch[places].size, real + batch[mask].sum()
            assert (batch[places] > 0).sum() == batch[mask].sum()
        shapes.add(tuple(batch[name].shape for name in ("text_places", "region_places", "masked_positions")))
    assert computed / real <= largest
    assert batch_size < 512 or len(shapes) <= 3  # each is compiled once


def test_rows_are_balanced():
    lengths = Lengths(256)
    order = balanced(lengths.text, lengths.regions, 8)
    assert sorted(order.tolist()) == list(range(256))
    for x in (lengths.text, lengths.regions):
        loads = x[order].reshape(-1, 8).sum(1)
        assert loads.max() <= 1.03 * loads.mean()
    assert x.reshape(-1, 8).sum(1).max() > 1.15 * loads.mean()  # as they come


@pytest.mark.parametrize("name", ["batch_size", "pairs_per_row", "pairs_per_group"])
def test_nothing_can_be_packed_by_less_than_one(name):
    with pytest.raises(InputError, match=f"{name} is 0; it must be at least 1"):
        PackingConfig(**{"batch_size": 8, name: 0})


@pytest.mark.parametrize(
    ("batch_size", "num_parts", "hosts", "per_row"),
    [(512, 8, 1, 8), (512, 8, 4, 8), (64, 16, 2, 4), (8, 8, 1, 1), (24, 2, 1, 4), (12, 8, 1, 1), (512, 3, 1, 1)],
)
def test_each_part_of_a_batch_is_made_of_whole_rows(batch_size, num_parts, hosts, per_row):
    rows = packed_pairs(
        Lengths(batch_size), num_parts=num_parts, host_count=hosts, batch_size=batch_size, pairs_per_row=8,
        pairs_per_group=128,
    )  # fmt: skip
    if per_row == 1:
        assert isinstance(rows, Lengths)
        return
    reading = {"batch_size": batch_size, "seed": 0, "shuffle": True, "host_count": hosts}
    shape = Dataset(rows, **reading)[0]["text_mask"].shape
    assert shape == (batch_size // hosts // per_row, per_row, 36)
    assert batch_size // per_row % num_parts == 0


def test_one_pair_a_row_is_no_packing(config):
    pairs = source(config)
    assert packed_pairs(pairs, pairs_per_row=1) is pairs
    negatives = dataclasses.replace(config, region_targets="features", num_nce_negatives=10)
    pairs = source(negatives)
    assert packed_pairs(pairs) is pairs  # their places in the batch are drawn


def test_models_that_cannot_read_rows_say_so(config):
    _, rows = batches(config)
    model, params = tiny(config)
    inputs = pretraining.model_inputs(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), {
        name: x for name, x in rows.items() if "places" not in name
    }))  # fmt: skip
    inputs = inputs._replace(places=Places(rows["text_places"], rows["region_places"]))
    tasks = vj.ViLBERTForTasks(model.config, ("grounding",))
    with pytest.raises(InputError, match="one to a row"):
        tasks.init(jax.random.key(0), inputs, deterministic=True)
    with pytest.raises(InputError, match="one to a row"):
        model.apply({"params": params}, inputs._replace(task_id=np.zeros(PAIRS, np.int32)), deterministic=True)


def test_the_loss_needs_no_more_than_its_mean(config):
    """Guards the names: a packed batch trains through the very functions of an unpacked one."""
    model, params = tiny(config)
    sums = jax.jit(pretraining.make_loss_fn(model, "all"))(params, batches(config)[1], jax.random.key(0))
    assert sorted(sums) == sorted(LOSSES)
    assert all(np.isfinite(mean(total)) for total in sums.values())
