"""``examples.png``: held-out pictures, one word of the caption hidden, what the model guesses and where it looked."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vilbert_jax.data.pictures import Picture
from vilbert_jax.data.pretraining import PretrainingSource
from vilbert_jax.data.region_codec import RegionRecord
from vilbert_jax.model import ViLBERTForPretraining
from vilbert_jax.tasks.drawing import QUIET, RIGHT, STYLE, bar_colour, draw_attention, draw_picture
from vilbert_jax.tasks.pretraining import model_inputs
from vilbert_jax.tasks.region_attention import last_text_attention

NUM_GUESSES = 4


class Guess(NamedTuple):
    """The model's answer for one hidden word."""

    record: RegionRecord
    tokens: list[str]  # of the whole caption, without [CLS] and [SEP]
    hidden: int  # index into tokens
    words: list[str]  # best first
    probs: np.ndarray  # [NUM_GUESSES], of those words
    attention: np.ndarray  # [n + 1], from the hidden word to the global region and the n boxes; sums to 1


def guess_words(
    model: ViLBERTForPretraining, params: Any, source: PretrainingSource, rows: Sequence[int]
) -> list[Guess]:
    """Hides one word of each caption (a content word where the data set names them) and asks the model for it.

    The attention is that of the last co-attention layer, text over regions, the mean over its heads.
    """
    probes = [source.probe(row) for row in rows]
    batch = {name: np.stack([probe.fields[name] for probe in probes]) for name in probes[0].fields}
    apply = jax.jit(
        lambda params, batch: model.apply(
            {"params": params},
            model_inputs(batch),
            deterministic=True,
            masked_positions=batch["masked_positions"],
            mutable=["intermediates"],
        )
    )
    output, variables = jax.device_get(apply(params, batch))
    probs = jax.nn.softmax(output.token_logits[:, 0].astype(np.float32))
    maps = last_text_attention(variables["intermediates"], batch["region_mask"], batch["token_ids"].shape[1])
    guesses = []
    for i, probe in enumerate(probes):
        best = np.argsort(-probs[i])[:NUM_GUESSES]
        position = int(batch["masked_positions"][i, 0])
        guesses.append(
            Guess(
                record=probe.record,
                tokens=probe.tokens,
                hidden=position - 1,  # [CLS] stands first
                words=source.tokenizer.tokens(best),
                probs=np.asarray(probs[i])[best],
                attention=maps[i, position][batch["region_mask"][i]],
            )
        )
    return guesses


def draw_examples(
    model: ViLBERTForPretraining,
    params: Any,
    source: PretrainingSource,
    path: str | pathlib.Path,
    *,
    picture: Picture,
    num_examples: int = 8,
) -> None:
    """Writes the figure.

    Args:
        model: the model.
        params: its parameters.
        source: held-out pairs.
        path: where the PNG goes.
        picture: image id -> [H, W, 3] uint8, or None where there is no picture; then the boxes stand alone.
        num_examples: pairs to show, spread evenly over the split.
    """
    spread = np.unique(np.linspace(0, len(source) - 1, num_examples).astype(int)).tolist()
    rows = [row for row in spread if len(source.tokenizer.encode(source.pair(row)[1]))]  # a caption may be empty
    guesses = guess_words(model, params, source, rows)
    num_rows = -(-len(guesses) // 2)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 2.7 * num_rows), layout="constrained")
        grid = figure.subplots(num_rows, 4, squeeze=False, width_ratios=[1.15, 1, 1.15, 1]).reshape(-1, 2)
        for axes in grid.ravel():
            axes.set_axis_off()
        for (left, right), guess in zip(grid, guesses, strict=False):
            _draw_regions(left, guess, picture(guess.record.image_id))
            _draw_guesses(right, guess)
        figure.suptitle("One word hidden: the model's guesses, and the regions it attends to", fontsize=13)
        figure.savefig(path, dpi=110)


def _draw_regions(axes: Axes, guess: Guess, picture: np.ndarray | None) -> None:
    draw_picture(axes, picture, guess.record.width, guess.record.height)
    draw_attention(axes, guess.record.boxes, guess.attention)


def _draw_guesses(axes: Axes, guess: Guess) -> None:
    truth = guess.tokens[guess.hidden]
    shown = ["____" if i == guess.hidden else token for i, token in enumerate(guess.tokens)]
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.text(0, 0.98, _wrap(shown, 34), va="top", fontsize=11)
    for k, (word, prob) in enumerate(zip(guess.words, guess.probs, strict=True)):
        y = 0.5 - 0.125 * k
        colour = bar_colour(word == truth, k == 0)
        axes.barh(y, 0.55 * float(prob), left=0.3, height=0.09, color=colour, alpha=0.85)
        axes.text(0.28, y, word, ha="right", va="center", color=colour, fontweight="bold" if word == truth else None)
        axes.text(0.31 + 0.55 * float(prob), y, f"{prob:.0%}", va="center", fontsize=8, color=QUIET)
    if truth not in guess.words:
        axes.text(0, 0.02, f"hidden: {truth}", fontsize=8, color=RIGHT)


def _wrap(words: Sequence[str], width: int) -> str:
    lines, line = [], ""
    for word in words:
        piece = word.removeprefix("##")
        glue = "" if piece != word or word in ",.;:!?" or not line else " "
        if line and len(line) + len(glue) + len(piece) > width:
            lines.append(line)
            line, glue = "", ""
        line += glue + piece
    return "\n".join([*lines, line])
