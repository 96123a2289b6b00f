"""Scoring all pairs: the same as each pair from scratch, on any mesh, killed or not."""

import dataclasses
import itertools
import json
from collections import Counter

import jax
import numpy as np
import pytest

import vilbert_jax as vj
from vilbert_jax.evaluation import all_pairs, blocks
from vilbert_jax.evaluation.all_pairs import score_all_pairs
from vilbert_jax.evaluation.blocks import balanced_rows, blocks_of_like_size, bucket_edges, mixed_blocks
from vilbert_jax.model import init_params
from vilbert_jax.sharding import MeshConfig, make_mesh
from vilbert_jax.tasks.regions import task_features

STREAM = vj.StreamConfig(width=16, num_layers=2, num_heads=2, mlp_dim=20)
CONFIG = vj.ViLBERTConfig(
    text=STREAM,
    regions=dataclasses.replace(STREAM, width=8),
    vocab_size=32,
    max_text_length=12,
    region_feature_dim=6,
    region_target_dim=5,
    co_width=16,
    co_num_heads=2,
    text_co_layers=(1,),  # one layer of each stream runs before the exchange, one behind it
    region_co_layers=(1,),
    initializer_range=0.4,
)
ONE = make_mesh(MeshConfig(), jax.devices()[:1])
IDENTITY = {"checkpoint": "abc"}
LENGTH, NUM_REGIONS = 12, 7


class Pictures:
    """Images of 1 to 7 int8 regions, padded to 7; counts how often each is read."""

    def __init__(self, count=11, kill_at=None):
        self.count, self.kill_at, self.reads = count, kill_at, [0] * count

    def __len__(self):
        return self.count

    def image(self, index):
        self.reads[index] += 1
        if self.kill_at == sum(self.reads):
            raise KeyboardInterrupt
        rng = np.random.default_rng([5, index])
        used = np.arange(NUM_REGIONS) < rng.integers(1, NUM_REGIONS + 1)
        features = rng.integers(-127, 128, (NUM_REGIONS, CONFIG.region_feature_dim)) * used[:, None]
        slots = np.concatenate([[True], used])
        return {
            "stored_features": features.astype(np.int8),
            "feature_scales": (rng.uniform(0.005, 0.02, NUM_REGIONS) * used).astype(np.float32),
            "global_feature": rng.normal(size=CONFIG.region_feature_dim).astype(np.float32),
            "region_boxes": (rng.uniform(size=(NUM_REGIONS + 1, 5)) * slots[:, None]).astype(np.float32),
            "region_mask": slots,
        }


def captions(count=13, seed=0):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(1, 32, rng.integers(3, LENGTH + 1)).astype(np.int32) for _ in range(count - 2)]
    return [*texts, texts[1].copy(), texts[0].copy()]


def build(head="alignment", **changes):
    model = vj.ViLBERTForTasks(dataclasses.replace(CONFIG, **changes), (head,))
    return model, jax.jit(lambda key: init_params(model, key))(jax.random.key(3))


def score_from_scratch(model, params, texts, pictures, task_id=None):
    """[captions, images]: the whole model for each pair, everything padded to the full size."""
    padded = np.stack([np.pad(ids, (0, LENGTH - len(ids))) for ids in texts])
    mask = np.arange(LENGTH)[None] < np.array([[len(ids)] for ids in texts])
    run = jax.jit(lambda p, x: model.apply({"params": p}, x, deterministic=True).logits[model.heads[0]])
    columns = []
    for k in range(len(pictures)):
        image = {name: np.repeat(field[None], len(texts), axis=0) for name, field in pictures.image(k).items()}
        inputs = vj.Inputs(
            token_ids=padded,
            token_types=np.zeros_like(padded),
            text_mask=mask,
            region_features=np.asarray(task_features(image)),
            region_boxes=image["region_boxes"],
            region_mask=image["region_mask"],
            task_id=None if task_id is None else np.full(len(texts), task_id, np.int32),
        )
        logits = np.asarray(run(params, inputs))
        columns.append(logits[:, 0] - logits[:, 1] if model.heads == ("alignment",) else logits)
    return np.stack(columns, axis=1)


def score(model, params, folder, *, texts=None, pictures=None, mesh=ONE, identity=IDENTITY, **options):
    options = {"captions_per_step": 4, "images_per_step": 4, "progress": False} | options
    texts, pictures = texts or captions(), Pictures() if pictures is None else pictures
    return score_all_pairs(model, params, texts, pictures, mesh=mesh, folder=folder, identity=identity, **options)


@pytest.fixture(autouse=True)
def two_buckets(monkeypatch):
    """Every pair of buckets is a program to compile, and two of each show what four do."""
    monkeypatch.setattr(blocks, "_MAX_BUCKETS", 2)


@pytest.fixture(scope="module")
def alignment():
    model, params = build()
    return model, params, score_from_scratch(model, params, captions(), Pictures())


def check(found, expected):
    assert found.dtype == np.float32
    assert expected.std() > 0.05  # pairs differ, or the rest would say nothing
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for axis in (0, 1):
        ours, theirs = (np.argsort(-np.asarray(x[:-2]), axis=axis, kind="stable") for x in (found, expected))
        np.testing.assert_array_equal(ours, theirs)


def test_scores_and_ranks_are_those_of_each_pair_from_scratch(alignment, tmp_path):
    model, params, expected = alignment
    check(score(model, params, tmp_path), expected)


@pytest.mark.parametrize(
    ("head", "changes", "task_id"),
    [
        ("choice", {"num_task_embeddings": 9}, 7),
        ("choice", {"use_coattention": False, "fusion": "sum"}, None),
        ("alignment", {"text_co_layers": (0,), "region_co_layers": (0,)}, None),
        ("alignment", {"num_streams": 1}, None),
    ],
    ids=["choice head with task tokens", "no co-attention", "co-attention first", "one stream"],
)
def test_other_models_too(head, changes, task_id, tmp_path):
    model, params = build(head, **changes)
    expected = score_from_scratch(model, params, captions(), Pictures(), task_id)
    check(score(model, params, tmp_path, task_id=task_id), expected)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_eight_devices_give_the_scores_of_one(alignment, tmp_path, sizes):
    model, params, expected = alignment
    check(score(model, params, tmp_path, mesh=make_mesh(MeshConfig(**sizes))), expected)


def test_equal_captions_tie_exactly(alignment, tmp_path):
    model, params, _ = alignment
    found = score(model, params, tmp_path)
    np.testing.assert_array_equal(found[-2:], found[[1, 0]])
    assert not np.array_equal(found[0], found[1])


def test_a_killed_run_goes_on_and_computes_no_finished_tile_again(alignment, tmp_path, monkeypatch):
    model, params, expected = alignment
    monkeypatch.setattr(all_pairs, "_TILES_A_COMMIT", 2)
    with pytest.raises(KeyboardInterrupt):
        score(model, params, tmp_path, pictures=Pictures(kill_at=11 + 9))  # while it reads the last images
    done = np.load(tmp_path / "done.npy").astype(bool)
    assert 2 <= done.sum() < len(done)
    scores = np.load(tmp_path / "scores.npy", mmap_mode="r+")
    marked = np.abs(scores - expected) < 1e-4  # written before the kill; finished or not
    scores[marked] = 99
    scores.flush()
    resumed = Pictures()
    found = np.array(score(model, params, tmp_path, pictures=resumed))
    kept = found == 99
    unfinished = ~kept
    np.testing.assert_allclose(found[unfinished], expected[unfinished], rtol=1e-5, atol=1e-5)
    assert kept.sum() == pairs_of(done)
    # Images of finished tiles are looked at for their size alone.
    assert {1, 2} == set(resumed.reads)


def pairs_of(done):
    """Pairs that the finished tiles cover, repeated captions counted."""
    texts, sizes = captions()[:-2], [int(Pictures().image(k)["region_mask"].sum()) for k in range(11)]
    rows = [sum(2 if k < 2 else 1 for k in block) for _, block in blocks_of_like_size([len(t) for t in texts], 4)]
    columns = [len(block) for block in mixed_blocks(sizes, 4)]
    return int(np.outer(columns, rows).reshape(-1)[done].sum())


def test_resuming_unmarked_gives_the_matrix_of_a_run_never_killed(alignment, tmp_path, monkeypatch):
    model, params, _ = alignment
    monkeypatch.setattr(all_pairs, "_TILES_A_COMMIT", 1)
    whole = score(model, params, tmp_path / "whole")
    for kill_at in (11 + 5, 11 + 8):
        with pytest.raises(KeyboardInterrupt):
            score(model, params, tmp_path / "killed", pictures=Pictures(kill_at=kill_at))
    np.testing.assert_array_equal(score(model, params, tmp_path / "killed"), whole)


def test_a_finished_matrix_is_only_read(alignment, tmp_path, monkeypatch):
    model, params, _ = alignment
    first = np.array(score(model, params, tmp_path))
    monkeypatch.setattr(all_pairs, "_compiled", None)  # anything computed would fail
    np.testing.assert_array_equal(score(model, params, tmp_path), first)


def test_scores_of_something_else_are_refused(alignment, tmp_path):
    model, params, _ = alignment
    score(model, params, tmp_path)
    with pytest.raises(vj.InputError, match="checkpoint: 'abc' there, 'abd' now\nChoose another output folder"):
        score(model, params, tmp_path, identity={"checkpoint": "abd"})
    with pytest.raises(vj.InputError, match=r"shape: \[13, 11\] there, \[13, 10\] now"):
        score(model, params, tmp_path, pictures=Pictures(10))
    with pytest.raises(vj.InputError, match="captions: .* there, .* now"):
        score(model, params, tmp_path, texts=[*captions()[:-1], captions()[3]])
    score(model, params, tmp_path / "named", identity={"model": "a"})
    with pytest.raises(vj.InputError, match="model: 'a' there, 'b' now"):  # a name that the record uses as well
        score(model, params, tmp_path / "named", identity={"model": "b"})
    with pytest.raises(vj.InputError, match=r"pairs_per_step: \[4, 4\] there, \[4, 2\] now"):
        score(model, params, tmp_path, images_per_step=2)


def test_damaged_files_are_named(alignment, tmp_path):
    model, params, _ = alignment
    score(model, params, tmp_path)
    np.save(tmp_path / "done.npy", np.zeros(3, np.uint8))
    with pytest.raises(vj.InputError, match=r"done.npy holds uint8 \(3,\), expected uint8"):
        score(model, params, tmp_path)
    (tmp_path / "scores.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(vj.InputError, match=r"scores.npy cannot be read .* delete the folder"):
        score(model, params, tmp_path)
    (tmp_path / "scores.json").write_text(json.dumps(IDENTITY)[:-3])
    with pytest.raises(vj.InputError, match=r"scores.json is damaged"):
        score(model, params, tmp_path)


def test_a_run_killed_while_it_makes_its_files_starts_again(alignment, tmp_path):
    model, params, expected = alignment
    (tmp_path / "scores.npy").write_bytes(b"\x93NUMPY")
    check(score(model, params, tmp_path), expected)


def test_what_cannot_be_scored_is_refused_before_anything_is_written(alignment, tmp_path):
    model, params, _ = alignment
    folder = tmp_path / "scores"

    def refused(match, model=model, **options):
        with pytest.raises(vj.InputError, match=match):
            score(model, params, folder, **options)

    refused(r"needs one head, choice or alignment; the model has \['vqa'\]", vj.ViLBERTForTasks(CONFIG, ("vqa",)))
    refused("caption 1 has 0 word pieces", texts=[np.ones(3, np.int32), np.ones(0, np.int32)])
    refused("caption 0 has 13 word pieces; expected 1 to 12", texts=[np.ones(13, np.int32)])
    refused("13 captions and 0 images", pictures=Pictures(0))
    refused("task_id is 2, but the model has 0 task tokens", task_id=2)
    eight = make_mesh(MeshConfig(data=8))
    refused("12 pairs a step .* data x fsdp = 8; choose a multiple of 8", mesh=eight, captions_per_step=3)
    assert not folder.exists()


def test_scores_that_are_not_finite_are_refused(alignment, tmp_path):
    model, params, _ = alignment

    class Broken(Pictures):
        def image(self, index):
            found = super().image(index)
            return found | {"global_feature": found["global_feature"] * (np.nan if index == 6 else 1)}

    with pytest.raises(vj.InputError, match="image 6 has NaN or infinity in global_feature; .* build its region store"):
        score(model, params, tmp_path / "image", pictures=Broken())
    broken = jax.tree.map(lambda x: x * np.nan, params)
    with pytest.raises(vj.InputError, match="image [0-9]+ has the score nan .* check the parameters"):
        score(model, broken, tmp_path / "parameters")


@pytest.mark.parametrize("per_block", [1, 3, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_buckets_pad_as_little_as_any_choice_of_edges(per_block, count):
    sizes = [3, 3, 3, 4, 9, 9, 10, 20]
    edges = bucket_edges(sizes, per_block, count)
    assert len(edges) <= count
    assert padded_size(sizes, edges, per_block) == least_padded_size(sizes, per_block, count)


def test_too_few_things_for_two_blocks_are_in_one_bucket():
    assert bucket_edges([3, 9, 20], 4, 2) == [20]
    assert bucket_edges([3] * 4 + [20], 4, 2) == [3, 20]
    assert bucket_edges([7, 7], 1, 4) == [7]


def padded_size(sizes, edges, per_block):
    counts = Counter(min(edge for edge in edges if edge >= size) for size in sizes)
    return sum(edge * -(-count // per_block) * per_block for edge, count in counts.items())


def least_padded_size(sizes, per_block, count):
    values = sorted(set(sizes))
    choices = (c for n in range(1, min(count, len(values)) + 1) for c in itertools.combinations(values, n))
    return min(padded_size(sizes, choice, per_block) for choice in choices if choice[-1] == values[-1])


def test_every_thing_is_in_one_block():
    sizes = np.random.default_rng(0).integers(1, 30, 101).tolist()
    found = blocks_of_like_size(sizes, 8)
    assert sorted(np.concatenate([block for _, block in found]).tolist()) == list(range(101))
    assert all(len(block) <= 8 and max(sizes[k] for k in block) <= size for size, block in found)
    assert len({size for size, _ in found}) <= 2


@pytest.mark.parametrize(("count", "per_block"), [(1, 4), (11, 4), (100, 16)])
def test_mixed_blocks_are_few_and_alike(count, per_block):
    sizes = np.random.default_rng(0).integers(10, 38, count)
    found = mixed_blocks(sizes.tolist(), per_block)
    assert sorted(np.concatenate(found).tolist()) == list(range(count))
    assert len(found) == -(-count // per_block)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    means = [sizes[block].mean() for block in found]
    assert max(means) - min(means) < 6


def test_rows_share_the_load_and_know_their_gaps():
    sizes = np.random.default_rng(1).integers(10, 38, 14).tolist()
    rows = balanced_rows(sizes, num_rows=4, per_row=4)
    assert sorted(rows[rows >= 0].tolist()) == list(range(14))
    assert (rows < 0).sum() == 2
    loads = [sum(sizes[k] for k in row if k >= 0) for row in rows]
    assert max(loads) < 1.1 * np.mean(loads)
    assert balanced_rows([5], num_rows=2, per_row=1).tolist() == [[0], [-1]]


def test_places_name_what_is_used_of_each_image():
    masks = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1], [1, 0, 0]], bool)
    found = blocks.region_places(masks, np.array([[7, 3], [4, -1]]), 5)
    assert found.tolist() == [
        [1, 2, 4, 6, 0],
        [1, 2, 3, 0, 0],
    ]  # slot 1 of the second image and the missing one are out
    assert blocks.num_places([3, 4, 9, 1], [np.array([[0, 1], [2, -1]])]) == 16
