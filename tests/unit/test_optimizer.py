"""The optimizers against recorded trajectories of the released ones, and the path tables."""

import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vilbert_jax import cli
from vilbert_jax.errors import InputError
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule

TOTAL_STEPS = 30
FINETUNE = {"b2": 0.999, "eps": 1e-6, "bias_correction": False, "schedule_offset": 1}
RECIPES = {
    "concap_adamw": {"clip": "none"},
    "finetune_adamw": {"clip": "none"} | FINETUNE,
    "bertadam_linear": {"variant": "bertadam", "clip": "per_tensor"} | FINETUNE,
    "bertadam_constant": {"variant": "bertadam", "clip": "per_tensor", "schedule": "constant"} | FINETUNE,
}


@pytest.fixture(scope="module")
def recorded(data_dir: pathlib.Path):
    with np.load(data_dir / "golden" / "optim" / "optim.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", RECIPES)
def test_released_optimizers_are_reproduced(name, recorded):
    config = OptimizerConfig(learning_rate=1e-2, **RECIPES[name])
    with jax.enable_x64(True):
        tx = make_optimizer(config, TOTAL_STEPS)
        params: Any = {"kernel": jnp.asarray(recorded["p0_init"]), "bias": jnp.asarray(recorded["p1_init"])}
        state: Any = tx.init(params)
        for k in range(12):
            grads = {"kernel": jnp.asarray(recorded[f"g0_{k}"]), "bias": jnp.asarray(recorded[f"g1_{k}"])}
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            assert params["kernel"].dtype == np.float64
            np.testing.assert_allclose(params["kernel"], recorded[f"{name}_p0_{k}"], rtol=0, atol=1e-12)
            np.testing.assert_allclose(params["bias"], recorded[f"{name}_p1_{k}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["concap_adamw", "finetune_adamw"])
def test_released_learning_rates_are_reproduced(name, recorded):
    with jax.enable_x64(True):
        schedule = make_schedule(OptimizerConfig(learning_rate=1e-2, **RECIPES[name]), TOTAL_STEPS)
        rates = np.array([schedule(k) for k in range(12)])
    np.testing.assert_allclose(rates, recorded[f"{name}_lr"][:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "offset", "expected"),
    [
        ("linear", 0, [0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0, 0]),
        ("linear", 1, [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]),
        ("constant", 0, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_schedule_by_hand(schedule, offset, expected):
    config = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.2, schedule=schedule, schedule_offset=offset)
    np.testing.assert_allclose([make_schedule(config, 10)(k) for k in range(11)], expected, atol=1e-6)


def test_without_warm_up_the_first_update_has_the_full_rate():
    config = OptimizerConfig(learning_rate=2.0, warmup_fraction=0.0, schedule_offset=1)
    assert make_schedule(config, 4)(0) == 2.0


@pytest.mark.parametrize("steps_an_epoch", [1, 7, 50, 2047])
def test_the_released_fine_tuning_schedule_of_the_paper(steps_an_epoch):
    """vilbert_beta: BertAdam's warmup_constant, and x 0.1 when 12 and 16 of 20 epochs are over."""
    total = 20 * steps_an_epoch
    config = OptimizerConfig(
        learning_rate=4e-5, variant="bertadam", schedule="constant", drop_at=(0.6, 0.8), **FINETUNE
    )
    completed = np.arange(total) if total < 2000 else np.array([0, 12, 16, 20])[:, None] * steps_an_epoch + [-1, 0, 1]
    completed = completed[(completed >= 0) & (completed < total)]
    share, epoch = completed / total, completed // steps_an_epoch
    expected = 4e-5 * np.where(share < 0.1, share / 0.1, 1) * 0.1 ** ((epoch >= 12) + 0.0 + (epoch >= 16))
    with jax.enable_x64(True):
        np.testing.assert_allclose(make_schedule(config, total)(completed), expected, rtol=1e-12, atol=0)
    np.testing.assert_allclose(make_schedule(config, total)(completed), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "total", "expected"),
    [
        ({"schedule": "constant"}, 5, [1, 1, 1, 0.5, 0.25]),
        ({"schedule": "linear"}, 5, [1, 0.8, 0.6, 0.2, 0.05]),
        ({"schedule": "constant", "schedule_offset": 0}, 5, [1, 1, 0.5, 0.25, 0.25]),
        ({"schedule": "constant", "drop_at": (0.5,)}, 7, [1, 1, 1, 1, 0.5, 0.5, 0.5]),  # 3.5 steps: from 4 on
        ({"schedule": "constant", "drop_at": (0.25, 0.75), "drop_factor": 0.0}, 4, [1, 0, 0, 0]),
    ],
)
def test_drops_by_hand(changes, total, expected):
    config = OptimizerConfig(**{
        "learning_rate": 1.0, "warmup_fraction": 0.0, "schedule_offset": 1, "drop_at": (0.6, 0.8), "drop_factor": 0.5,
    } | changes)  # fmt: skip
    np.testing.assert_allclose([make_schedule(config, total)(k) for k in range(total)], expected, atol=1e-6)


def test_a_share_that_is_no_binary_fraction_drops_at_its_step():
    config = OptimizerConfig(
        learning_rate=1.0, warmup_fraction=0.0, schedule="constant", schedule_offset=1, drop_at=(0.55,)
    )
    with jax.enable_x64(True):  # where 0.55 x 100 is above 55
        assert [float(make_schedule(config, 100)(k)) for k in (54, 55)] == [1.0, 0.1]


def test_a_drop_scales_the_update_and_the_decay_alike():
    def second_update(**changes):
        tx = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup_fraction=0.0, weight_decay=0.5, **changes), 4)
        params: Any = ones("a/kernel")
        _, state = tx.update(ones("a/kernel"), tx.init(params), params)
        updates: Any = tx.update(ones("a/kernel"), state, params)[0]
        return updates["a/kernel"]

    options: Any = {"variant": "bertadam", "bias_correction": False, "schedule": "constant", "schedule_offset": 1}
    dropped = second_update(drop_at=(0.25,), **options)
    np.testing.assert_allclose(dropped, 0.1 * second_update(**options), rtol=1e-6)


def test_the_settings_survive_a_recipe_and_its_command_line(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import dataclasses\n"
        "from ml_collections import ConfigDict\n"
        "from vilbert_jax.training.optimizer import OptimizerConfig\n"
        "def get_config():\n"
        "    optimizer = OptimizerConfig(learning_rate_by_path=(('vqa_head/.*', 2.5),))\n"
        "    return ConfigDict({'optimizer': dataclasses.asdict(optimizer)})\n"
    )

    def read(*flags):
        config = cli.parse(["train", f"--config={recipe}", *flags])[0]
        return OptimizerConfig(**config.optimizer.to_dict())

    table = (("vqa_head/.*", 2.5),)
    assert read() == OptimizerConfig(learning_rate_by_path=table)
    found = read("--config.optimizer.drop_at=(0.6,0.8)", "--config.optimizer.drop_factor=0.2")
    assert found == OptimizerConfig(learning_rate_by_path=table, drop_at=(0.6, 0.8), drop_factor=0.2)
    assert read("--config.optimizer.drop_at=(0.5,)").drop_at == (0.5,)


def ones(*paths: str):
    return {path: jnp.ones((2, 2)) for path in paths}


def one_update(config: OptimizerConfig, params, grads) -> Any:
    tx = make_optimizer(config, 1000)
    return tx.update(grads, tx.init(params), params)


def decays(config: OptimizerConfig, paths):
    """Decay of each path, seen from outside: with zero gradients, decay alone moves a parameter of 1 at rate 1."""
    params = ones(*paths)
    updates, _ = one_update(config, params, jax.tree.map(jnp.zeros_like, params))
    return {path: round(float(-update[0, 0]), 6) for path, update in updates.items()}


PATHS = {  # path: (clean, vilbert-multi-task, vilbert_beta)
    "trunk/text_embeddings/word_embeddings/embedding": (1, 1, 0),
    "trunk/text_embeddings/norm/scale": (0, 0, 1),
    "trunk/encoder/text_layer_0/attention/query/kernel": (1, 1, 0),
    "trunk/encoder/text_layer_0/attention/query/bias": (0, 0, 1),
    "trunk/encoder/text_layer_0/attention_output_norm/scale": (0, 0, 1),
    "trunk/encoder/co_layer_0/text_attention_output_norm/scale": (0, 1, 0),
    "trunk/encoder/co_layer_0/text_attention_output_norm/bias": (0, 0, 1),
    "trunk/encoder/co_layer_0/text_mlp/output_norm/scale": (0, 0, 1),
    "vqa_head/hidden_norm/scale": (0, 1, 0),
    "vqa_head/logits/gain": (0, 1, 0),
    "token_head/bias": (0, 0, 1),
}


@pytest.mark.parametrize(("column", "groups"), [(0, "clean"), (1, "multitask"), (2, "original")])
def test_decay_groups(column, groups):
    config = OptimizerConfig(learning_rate=1.0, warmup_fraction=0.0, schedule="constant", decay=groups)
    expected = {path: 0.01 * values[column] for path, values in PATHS.items()}
    assert decays(config, PATHS) == pytest.approx(expected)


def test_first_match_of_the_decay_table_wins_and_the_rest_follows_the_rule():
    config = OptimizerConfig(
        learning_rate=1.0,
        warmup_fraction=0.0,
        schedule="constant",
        weight_decay_by_path=((r"a/kernel", 0.5), (r"[ab]/.*", 0.25)),
    )
    found = decays(config, ["a/kernel", "a/bias", "b/kernel", "c/kernel", "c/bias", "aa/kernel"])
    expected = {"a/kernel": 0.5, "a/bias": 0.25, "b/kernel": 0.25, "c/kernel": 0.01, "c/bias": 0.0, "aa/kernel": 0.01}
    assert found == pytest.approx(expected)


def test_learning_rate_multipliers_scale_step_and_decay():
    params, grads = ones("a/kernel", "b/kernel"), ones("a/kernel", "b/kernel")
    config = OptimizerConfig(learning_rate_by_path=((r"a/.*", 0.1),))
    updates, _ = one_update(config, params, grads)
    np.testing.assert_allclose(updates["a/kernel"], 0.1 * updates["b/kernel"], rtol=1e-3)
    assert (updates["a/kernel"] < 0).all()


@pytest.mark.parametrize("variant", ["adamw", "bertadam"])
def test_multiplier_zero_freezes_exactly_and_leaves_the_global_norm(variant):
    params = ones("a/kernel", "b/kernel")
    grads = {"a/kernel": jnp.full((2, 2), 1e6), "b/kernel": jnp.full((2, 2), 0.25)}
    config = OptimizerConfig(
        variant=variant, bias_correction=False, weight_decay=0.3, learning_rate_by_path=((r"a/.*", 0.0),)
    )
    updates, state = one_update(config, params, grads)
    assert (params["a/kernel"] + updates["a/kernel"] == params["a/kernel"]).all()
    assert not state.mu["a/kernel"].any()
    assert not state.nu["a/kernel"].any()
    np.testing.assert_allclose(state.mu["b/kernel"], 0.1 * 0.25, rtol=1e-6)  # norm 0.5: not clipped


@pytest.mark.parametrize(
    ("clip", "expected"), [("none", (3.0, 4.0)), ("global", (0.6, 0.8)), ("per_tensor", (1.0, 1.0))]
)
def test_clipping(clip, expected):
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    _, state = one_update(OptimizerConfig(clip=clip), params, {"a": jnp.array([3.0]), "b": jnp.array([4.0])})
    np.testing.assert_allclose([state.mu["a"][0], state.mu["b"][0]], 0.1 * np.array(expected), rtol=1e-5)


@pytest.mark.parametrize("clip", ["global", "per_tensor"])
def test_a_small_gradient_is_not_scaled_up(clip):
    _, state = one_update(OptimizerConfig(clip=clip), {"a": jnp.zeros(1)}, {"a": jnp.array([0.5])})
    np.testing.assert_allclose(state.mu["a"], 0.05, rtol=1e-6)


@pytest.mark.parametrize("field", ["learning_rate_by_path", "weight_decay_by_path"])
@pytest.mark.parametrize(
    ("pattern", "message"),
    [("a/kernal", "matches none of the 1 parameters"), ("kernel", "whole path"), ("a/(", "not a regular expression")],
)
def test_a_pattern_that_fits_nothing_is_an_error(field, pattern, message):
    table: Any = {field: ((pattern, 0.1),)}
    with pytest.raises(InputError, match=message):
        make_optimizer(OptimizerConfig(**table), 10).init(ones("a/kernel"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "adam"}, "'adamw', 'bertadam'"),
        ({"decay": "inverted"}, "'clean', 'multitask', 'original'"),
        ({"clip": "norm"}, "'none', 'global', 'per_tensor'"),
        ({"schedule": "cosine"}, "'linear', 'constant'"),
        ({"schedule_offset": 2}, "0, 1"),
        ({"b2": 1.0}, "b2 is 1.0"),
        ({"warmup_fraction": 1.0}, "warmup_fraction"),
        ({"eps": 0.0}, "above 0"),
        ({"drop_at": (0.8, 0.6)}, r"drop_at is \(0.8, 0.6\); it must hold ascending shares"),
        ({"drop_at": (0.5, 0.5)}, "ascending shares"),
        ({"drop_at": (0.0,)}, "between 0 and 1"),
        ({"drop_at": (1.0,)}, "between 0 and 1"),
        ({"drop_at": (math.nan,)}, "between 0 and 1"),
        ({"drop_at": (12, 16)}, "between 0 and 1"),
        ({"drop_at": 0.6}, r"such as \(0.6, 0.8\), with a comma after a single one"),
        ({"drop_at": ("0.6",)}, "ascending shares"),
        ({"drop_factor": 1.5}, "drop_factor is 1.5"),
        ({"drop_factor": math.nan}, "drop_factor is nan"),
        ({"variant": "bertadam"}, "bias_correction=False"),
    ],
)
def test_bad_settings_say_what_to_choose(change, message):
    with pytest.raises(InputError, match=message):
        OptimizerConfig(**change)
