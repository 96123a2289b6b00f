"""What a plan counts, measures and advises, on a run small enough to compile in a second."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vilbert_jax as vj
from vilbert_jax.errors import InputError
from vilbert_jax.losses import WeightedSum
from vilbert_jax.model import ViLBERTForTasks
from vilbert_jax.model_size import forward_flops, head_flops
from vilbert_jax.planning.flops import computed_flops
from vilbert_jax.planning.job import Job, compile_job
from vilbert_jax.planning.memory import capacity
from vilbert_jax.planning.plan import Data, make_plan, num_evaluations, step_time
from vilbert_jax.planning.rates import Rates, measure_link, parse_rates
from vilbert_jax.planning.reading import Sample, Storage, sample
from vilbert_jax.planning.words import describe
from vilbert_jax.sharding import MeshConfig
from vilbert_jax.training.config import TrainingConfig
from vilbert_jax.training.optimizer import OptimizerConfig

WIDTH, HIDDEN, ROWS = 8, 4096, 64
MODEL = vj.ViLBERTConfig.tiny(vocab_size=50)
DATA = Data(
    Sample(4, 1, 9.0, 12, 5.0, 7, 2.0, 1.0, flops=1e3, padded_flops=2e3), Storage(8000, 40, 500, 250.0), 640, 128
)
FAST = Rates(flops=1e9, memory_rate=1e9, link_rate=1e9, memory=1e12)


def init_params(key):
    return {
        "alignment_head": {"kernel": jax.random.normal(key, (WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)},
    }


def loss_fn(params, batch, key):
    """Wide temporaries, few parameters."""
    head = params["alignment_head"]
    wide = jnp.sin(jnp.repeat(batch["x"] @ head["kernel"], HIDDEN // WIDTH, axis=1))
    total = jnp.cos(wide @ jnp.ones((HIDDEN, WIDTH)) + head["bias"][None]).sum()
    return {"loss_of_rows": WeightedSum(total, jnp.float32(len(batch["x"])))}


def job_of(settings=(), **mesh):
    """The run with settings changed; those of the model change nothing here."""
    settings = dict(settings)
    mesh = {name: settings.pop(f"mesh.{name}", mesh.get(name, size)) for name, size in {"data": 8, "fsdp": 1}.items()}
    settings.pop("model.dtype", None)
    usual = {"total_steps": 10, "batch_size": ROWS, "eval_every": 4, "checkpoint_every": 5}
    training = TrainingConfig(**(usual | settings))
    given = {
        "init_params": init_params,
        "loss_fn": loss_fn,
        "loss_weights": {"loss_of_rows": 1.0},
        "optimizer": OptimizerConfig(),
        "mesh": MeshConfig(**mesh),
        "identity": {"model": MODEL.to_dict(), "heads": ["tokens", "regions", "alignment"]},
    }
    return Job(training, given, {"x": np.ones((training.batch_size, WIDTH), np.float32)})


def plan_of(rates=FAST):
    return make_plan(job_of, lambda job: DATA, rates)


@pytest.fixture(scope="module")
def plan():
    return plan_of()


def test_flops_are_those_of_matrix_products_as_often_as_they_run():
    def function(x, y):
        unused = x @ x
        del unused
        return jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ y), None), x, None, length=7)[0]

    x, y = jax.ShapeDtypeStruct((5, 5), float), jax.ShapeDtypeStruct((5, 5), float)
    assert computed_flops(jax.make_jaxpr(function)(x, y).jaxpr) == 7 * 2 * 5**3


def test_flops_of_a_step_are_forward_and_backward(plan):
    forward = 2 * ROWS * (WIDTH * WIDTH + HIDDEN * WIDTH)
    # The inputs of the first product and the constant of the second need no gradient.
    assert plan.compiled.flops == 2 * forward


@pytest.mark.parametrize(
    "heads", [("vqa",), ("gqa",), ("choice",), ("binary",), ("grounding",), ("tokens", "regions"), vj.model.HEADS]
)
def test_flops_of_heads_are_those_that_are_traced(heads):
    stream = vj.StreamConfig(width=24, num_layers=1, num_heads=2, mlp_dim=40)
    config = vj.ViLBERTConfig.tiny(
        text=stream, regions=dataclasses.replace(stream, width=32), co_width=36, vocab_size=50, num_vqa_answers=13,
        num_gqa_answers=11, text_co_layers=(0,), region_co_layers=(0,),
    )  # fmt: skip
    rows, text, regions = 2, 9, 5
    inputs = vj.Inputs(
        token_ids=np.zeros((rows, text), np.int32),
        token_types=np.zeros((rows, text), np.int32),
        text_mask=np.ones((rows, text), bool),
        region_features=np.zeros((rows, regions, config.region_feature_dim), np.float32),
        region_boxes=np.zeros((rows, regions, 5), np.float32),
        region_mask=np.ones((rows, regions), bool),
    )
    model = ViLBERTForTasks(config, heads)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, deterministic=True))
    traced = jax.make_jaxpr(lambda p: model.apply(p, inputs, deterministic=True))(params)
    expected = forward_flops(config, text, regions) + head_flops(config, heads, text, regions)
    assert computed_flops(traced.jaxpr) == rows * expected


def test_an_unknown_head_is_refused():
    with pytest.raises(InputError, match=r"unknown \['tail'\]"):
        head_flops(MODEL, ["tail"], 1, 1)


def test_memory_and_traffic_are_those_of_the_compiled_step(plan):
    """Parameters, two moments, the step and the optimizer's count; the gradients are summed over all devices."""
    numbers = WIDTH * WIDTH + WIDTH
    assert plan.compiled.checkpoint_bytes == 4 * (3 * numbers + 2)
    assert plan.compiled.need.arguments == plan.compiled.checkpoint_bytes + ROWS // 8 * WIDTH * 4
    assert plan.compiled.need.aliased == plan.compiled.checkpoint_bytes
    assert plan.compiled.need.temporaries >= ROWS // 8 * HIDDEN * 4
    assert {(one.kind, one.axes, one.group_size) for one in plan.compiled.traffic} == {("all-reduce", ("data",), 8)}
    assert 4 * numbers <= sum(one.payload for one in plan.compiled.traffic) <= 4 * numbers + 100


def test_time_is_work_over_rates(plan):
    step = step_time(plan.compiled, Rates(flops=2e6, memory_rate=1e3, link_rate=100))
    sent = sum(one.sent for one in plan.compiled.traffic)
    assert step.compute == pytest.approx(plan.compiled.flops / 8 / 2e6)
    assert step.update == pytest.approx((2 * plan.compiled.state_bytes + 2 * plan.compiled.param_bytes) / 1e3)
    assert step.communication == pytest.approx(sent / 100)
    assert step.total == pytest.approx(step.compute + step.update + step.communication)


def test_without_a_rate_of_the_links_no_time_is_claimed(plan):
    assert step_time(plan.compiled, Rates(flops=1, memory_rate=1)).total is None
    text = describe(plan._replace(step=step_time(plan.compiled, Rates(flops=1, memory_rate=1))))
    assert "the rest needs a rate: --rates=link_rate=BYTES_A_SECOND" in text
    assert "to the end" not in text


def test_evaluations_cost_forward_passes_of_padded_examples(plan):
    """Three evaluations of 128 examples at 2e3 each, over 8 devices of 1e9."""
    assert plan.evaluation_seconds == pytest.approx(3 * 128 * 2e3 / 8 / 1e9)


def test_a_checkpoint_beside_training_holds_two_more_states_and_the_last_one_takes_the_place_of_a_step(plan):
    """Only where the device's memory is that of the process, which has a baseline."""
    assert plan.saving == 0
    shared, state = plan._replace(baseline=1000), plan.compiled.state_bytes
    assert shared.saving == 2 * state
    assert shared.need == plan.compiled.need.peak + 1000 + 2 * state
    at_the_end = dataclasses.replace(plan.job.training, checkpoint_every=10)
    shared = shared._replace(job=dataclasses.replace(plan.job, training=at_the_end))
    assert shared.saving == max(0, state - plan.compiled.need.temporaries)


def test_links_are_measured():
    probe = measure_link(jax.devices())
    assert probe.seconds > 0
    assert probe.amount == 2 * 7 / 8 * 2**26


def test_of_pretended_devices_nobody_knows_what_they_have():
    text = describe(plan_of(dataclasses.replace(FAST, memory=None)))
    assert "it is not told what it has (--rates=memory=BYTES): whether it fits is not known" in text


def test_evaluations_are_counted_with_the_last_one():
    assert [num_evaluations(TrainingConfig(total_steps=n, batch_size=1, eval_every=4)) for n in (3, 4, 5)] == [1, 1, 2]


def test_a_plan_says_what_was_found(plan):
    text = describe(plan)
    assert "10 steps of 64 examples" in text
    assert "1.0 epochs of 640" in text
    assert "9.0 of 12 word pieces, 5.0 of 7 regions" in text
    assert "8 (data=8 x fsdp=1 x tensor=1)" in text
    assert "it has 1.0 TB: it fits" in text
    assert "all-reduce along data" in text
    assert "parts of this processor that stand for them" in text
    assert len(text.splitlines()) <= 50
    assert max(map(len, text.splitlines())) <= 140


def test_what_does_not_fit_is_said_with_a_setting_that_makes_it_fit(plan):
    """The setting that is named is planned in its turn, and fits."""
    need = plan.compiled.need
    small = plan_of(dataclasses.replace(FAST, memory=need.peak))
    assert (small.fits, small.remedies) == (True, [])
    small = plan_of(dataclasses.replace(FAST, memory=need.peak - need.temporaries // 3))
    assert small.fits is False
    text = describe(small)
    assert "IT DOES NOT FIT" in text
    last = small.remedies[-1]
    assert last.fits
    assert f"it fits with {last.typed}" in text
    assert compile_job(job_of(last.settings), jax.devices()).need.peak == last.peak < need.peak


def test_where_nothing_helps_that_is_said():
    hopeless = plan_of(dataclasses.replace(FAST, memory=1))
    assert hopeless.fits is False
    assert not any(remedy.fits for remedy in hopeless.remedies)
    assert "none of these is enough" in describe(hopeless)
    again = [remedy.settings["remat"] for remedy in hopeless.remedies if "remat" in remedy.settings]
    assert again == ["light", "full"]


def test_a_device_is_measured_where_no_rates_are_stated():
    measured = make_plan(lambda settings: job_of(settings), lambda job: DATA, Rates(link_rate=1e9)).measured
    assert measured is not None
    assert measured.step is not None
    assert measured.step.seconds > 0
    assert measured.product.rate > 0
    assert measured.memory.rate > 0


def test_lengths_are_means_over_real_positions():
    class Source:
        """Two texts beside each picture; example i has i + 1 words in its first text, 3 in its second."""

        def __len__(self):
            return 4

        def example(self, index, rng):
            return {
                "text_mask": np.arange(6)[None] < np.array([[index + 1], [3]]),
                "region_mask": np.arange(5) < 2,
            }

    found = sample(Source(), MODEL, ("choice",))
    assert (found.num_examples, found.num_pairs, found.num_slots, found.num_region_slots) == (4, 2, 6, 5)
    assert (found.text_length, found.num_regions) == (2.75, 2.0)
    expected = sum(forward_flops(MODEL, n, 2) + forward_flops(MODEL, 3, 2) for n in (1, 2, 3, 4)) / 4
    assert found.flops == pytest.approx(expected + 2 * head_flops(MODEL, ["choice"], 0, 0))
    assert found.padded_flops == 2 * (forward_flops(MODEL, 6, 5) + head_flops(MODEL, ["choice"], 0, 0))


def test_rates_are_read():
    assert parse_rates("") == Rates()
    assert parse_rates("flops=4e14,memory=80e9") == Rates(flops=4e14, memory=80e9)


@pytest.mark.parametrize(
    "text", ["speed=1", "flops", "flops=fast", "flops=-1", "flops=0", "flops=inf", "flops=1;memory=2"]
)
def test_rates_that_mean_nothing_are_refused(text):
    with pytest.raises(InputError, match="flops, memory_rate, link_rate, memory"):
        parse_rates(text)


def test_a_processor_has_what_the_machine_has():
    found = capacity(jax.devices()[0])
    assert found is not None
    assert 2**28 < found < 2**50
