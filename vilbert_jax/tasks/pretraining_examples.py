"""``examples.png``: held-out pictures, one word of the caption hidden, what the model guesses and where it looked."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vilbert_jax.data.pictures import Picture
from vilbert_jax.data.pretraining import PretrainingSource
from vilbert_jax.data.region_codec import RegionRecord
from vilbert_jax.model import ViLBERTForPretraining
from vilbert_jax.tasks.pretraining import model_inputs

NUM_GUESSES = 4
_RIGHT, _WRONG, _QUIET = "#2a9d5c", "#c8553d", "#8a8f98"


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
    maps = _last_text_attention(variables["intermediates"], batch["region_mask"], batch["token_ids"].shape[1])
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
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(13, 2.7 * num_rows), layout="constrained")
        grid = figure.subplots(num_rows, 4, squeeze=False, width_ratios=[1.15, 1, 1.15, 1]).reshape(-1, 2)
        for axes in grid.ravel():
            axes.set_axis_off()
        for (left, right), guess in zip(grid, guesses, strict=False):
            _draw_regions(left, guess, picture(guess.record.image_id))
            _draw_guesses(right, guess)
        figure.suptitle("One word hidden: the model's guesses, and the regions it attends to", fontsize=13)
        figure.savefig(path, dpi=110)


def _last_text_attention(intermediates: Any, region_mask: np.ndarray, text_length: int) -> np.ndarray:
    """[B, T, S] probabilities; without co-attention layers there is nothing to show and every region counts alike."""
    layers = intermediates["trunk"]["encoder"]
    last = max((name for name in layers if name.startswith("co_layer_")), key=lambda n: int(n[9:]), default=None)
    if last is None:
        uniform = region_mask / region_mask.sum(1, keepdims=True)
        return np.repeat(uniform[:, None], text_length, axis=1)
    return np.asarray(layers[last]["text_attention"]["attention_probs"][0], np.float32).mean(1)


def _draw_regions(axes: Axes, guess: Guess, picture: np.ndarray | None) -> None:
    record = guess.record
    blank = np.full((record.height, record.width, 3), 245, np.uint8)
    extent = (0, record.width, record.height, 0)
    axes.imshow(blank if picture is None else picture, extent=extent, interpolation="lanczos")
    share = guess.attention[1:] / max(guess.attention.max(), 1e-6)
    for k in np.argsort(share):
        x1, y1, x2, y2 = record.boxes[k]
        strong = share[k] > 0.5
        axes.add_patch(
            Rectangle(
                (x1, y1),
                x2 - x1,
                y2 - y1,
                fill=False,
                linewidth=0.8 + 2.4 * share[k],
                edgecolor="#ffb703" if strong else "white",
                alpha=float(0.35 + 0.65 * share[k]),
            )
        )
        if strong:
            axes.text(x1 + 2, y1 + 2, f"{guess.attention[k + 1]:.0%}", color="black", fontsize=7, va="top",
                      bbox={"facecolor": "#ffb703", "edgecolor": "none", "pad": 1.2})  # fmt: skip
    axes.set_title(f"whole picture {guess.attention[0]:.0%}", fontsize=7, color=_QUIET, loc="right", pad=2)


def _draw_guesses(axes: Axes, guess: Guess) -> None:
    truth = guess.tokens[guess.hidden]
    shown = ["____" if i == guess.hidden else token for i, token in enumerate(guess.tokens)]
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.text(0, 0.98, _wrap(shown, 34), va="top", fontsize=11)
    for k, (word, prob) in enumerate(zip(guess.words, guess.probs, strict=True)):
        y = 0.5 - 0.125 * k
        colour = _RIGHT if word == truth else _WRONG if k == 0 else _QUIET
        axes.barh(y, 0.55 * float(prob), left=0.3, height=0.09, color=colour, alpha=0.85)
        axes.text(0.28, y, word, ha="right", va="center", color=colour, fontweight="bold" if word == truth else None)
        axes.text(0.31 + 0.55 * float(prob), y, f"{prob:.0%}", va="center", fontsize=8, color=_QUIET)
    if truth not in guess.words:
        axes.text(0, 0.02, f"hidden: {truth}", fontsize=8, color=_RIGHT)


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
