"""A grid of made-up values: two models, pre-trained and not, three shares of the data, one objective left out."""

from vilbert_jax.ablation.estimates import Results
from vilbert_jax.ablation.grid import Column, Value, Variant
from vilbert_jax.ablation.report import Facts

SINGLE = ("num_streams=1",)
VARIANTS = (
    Variant(name="two_stream", title="two streams", group="models"),
    Variant(name="two_stream_scratch", title="two streams, plain", group="models", pretrained=False),
    Variant(name="single_stream", title="one stream", group="models", model=SINGLE),
    Variant(name="single_stream_scratch", title="one stream, plain", group="models", model=SINGLE, pretrained=False),
    Variant(name="data_0", title="0 %", group="data", pretrained=False),
    Variant(name="data_25", title="25 %", group="data", pretraining=("train_split=train[:25%]",)),
    Variant(name="data_100", title="100 %", group="data"),
    Variant(name="no_token_loss", title="no words", group="objectives", pretraining=("loss_weights.token_loss=0.0",)),
)
COLUMNS = (
    Column(name="questions", title="VQA", recipe="configs/vqa.py:scenes", split="test", metric="accuracy"),
    Column(
        name="zero_shot",
        title="zero-shot",
        recipe="configs/zero_shot_flickr30k.py:scenes",
        split="test[:200]",
        metric="caption_to_image/recall@1",
        trained=False,
    ),
    Column(
        name="region_loss",
        title="region loss",
        recipe="",
        split="test",
        metric="region_loss",
        trained=False,
        digits=3,
        unit="nats",
    ),
)
BY_NAME = {variant.name: variant for variant in VARIANTS}
QUESTIONS, ZERO_SHOT, REGION_LOSS = COLUMNS
FACTS = Facts(
    command="python experiments/ablate.py --config=x.py", machines=["a machine"], core_seconds=7200.0, gpu_seconds=0.0,
    wall_seconds=1800.0, sizes={}, reference="two_stream",
)  # fmt: skip


def values(scores, column=QUESTIONS):
    """Values of {variant: scores by seed}; a word stands for a status."""
    return [
        Value(variant, column.name, seed, *((None, score) if isinstance(score, str) else (score, "done")))
        for variant, row in scores.items()
        for seed, score in enumerate(row)
    ]


def results(scores, column=QUESTIONS):
    return Results(VARIANTS, COLUMNS, values(scores, column))


def everything():
    """A value for each cell, all of them different, of three seeds."""
    found = []
    for k, variant in enumerate(VARIANTS):
        for column in COLUMNS:
            for seed in range(3):
                empty = not column.trained and not variant.pretrained
                score = 40 + 5 * k + 2.5 * seed * (-1) ** k if column.unit == "percent" else 1.9 + 0.01 * k + 0.1 * seed
                found.append(
                    Value(variant.name, column.name, seed, None if empty else score, "empty" if empty else "done")
                )
    return found
