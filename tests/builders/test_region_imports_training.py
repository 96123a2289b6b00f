"""Every format of region features, from the dump to the gradient of a training step."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import region_dumps
import tiny_pretraining as tiny
from test_region_imports import FORMATS
from test_region_imports_build import VOCAB, Captions, run

import vilbert_jax as vj
from vilbert_jax.data import PretrainingDataConfig, make_dataset
from vilbert_jax.losses import mean
from vilbert_jax.model import init_params
from vilbert_jax.tasks import pretraining

KEY = jax.random.key(0)
BATCH = {"batch_size": 4, "text_length": 10, "max_regions": 4, "region_mask_rate": 0.5, "mismatch_rate": 0.0}


@functools.cache
def fresh(model):
    """Parameters and a compiled training step; many formats give the same model."""
    loss_fn = pretraining.make_loss_fn(model, "all")

    def total(params, batch):
        return sum(mean(term) for term in loss_fn(params, batch, KEY).values())

    return init_params(model, KEY), jax.jit(jax.value_and_grad(total))


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.write.__name__)
def test_from_the_dump_to_a_training_step(kind, tmp_path, monkeypatch):
    made = region_dumps.pictures(4, boxes=4)
    ids = [kind.stored_id(p) for p in made]
    flags = ["--contract=butd_36", *([f"--background={kind.flag}"] if kind.flag else [])]
    if not kind.sized:
        table = [(image_id, p.width, p.height) for image_id, p in zip(ids, made, strict=True)]
        flags.append(f"--image_sizes={region_dumps.image_sizes(tmp_path, table)}")
    folder = tmp_path / "dump"
    folder.mkdir()
    assert run(kind.write(folder, made), tmp_path / "data", *flags) == 0
    monkeypatch.setattr(Captions, "NAMES", tuple(ids))
    Captions(data_dir=tmp_path / "data", file_format="array_record").download_and_prepare()
    store = vj.RegionStore(tmp_path / "data" / "region_features" / "mine")
    classes, width = store.contract.num_classes, store.contract.feature_dim
    objective = {"region_objective": "kl" if classes else "regression", "region_target_dim": classes or width}
    sizes = {"vocab_size": len(VOCAB.read_text().splitlines()), "region_feature_dim": width}
    model = vj.ViLBERTForPretraining(dataclasses.replace(tiny.CONFIG, **objective, **sizes))
    data = {"annotations": "captions", "regions": str(store.path), "data_dir": str(tmp_path / "data")}
    fields = pretraining.data_fields(model.config)
    dataset = make_dataset(PretrainingDataConfig(vocab=str(VOCAB), **data, **BATCH, **fields), "train")
    pretraining.check_fit(model.config, dataset.source, BATCH["text_length"], 1)
    batch = next(b for b in map(dataset.__getitem__, range(20)) if (b["region_label_mask"]).any())
    params, step = fresh(model)
    loss, gradient = step(params, batch)
    assert np.isfinite(loss)
    assert np.abs(gradient["region_head"]["logits"]["kernel"]).max() > 0
    assert np.abs(gradient["trunk"]["region_embeddings"]["features"]["kernel"]).max() > 0
