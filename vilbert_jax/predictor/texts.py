"""Sentences as the model reads them, and back."""

from collections.abc import Sequence

import numpy as np

from vilbert_jax.data.text import Tokenizer, pack
from vilbert_jax.errors import InputError


class TextReader:
    """Turns texts into word pieces, ``[CLS] pieces [SEP]`` without padding, t tokens."""

    def __init__(self, tokenizer: Tokenizer, num_positions: int, text_length: int | None) -> None:
        """Keeps the limits.

        Args:
            tokenizer: of the checkpoint.
            num_positions: of the model.
            text_length: tokens to keep of a longer text; None: it is refused.

        Raises:
            InputError: there is no such length.
        """
        if text_length is not None and not 3 <= text_length <= num_positions:
            raise InputError(f"text_length is {text_length}; the model reads 3 to {num_positions} tokens")
        self._tokenizer, self._num_positions, self._text_length = tokenizer, num_positions, text_length

    @property
    def empty(self) -> np.ndarray:
        """[2] int32: [CLS] [SEP]."""
        return pack(np.zeros(0, np.int32), 2, self._tokenizer).token_ids

    def read(self, text: str) -> np.ndarray:
        """[t] int32.

        Raises:
            InputError: no text, an empty one, or one that is too long.
        """
        _check_text(text)
        return self._row(text, self._tokenizer.encode(text), self._text_length)

    def read_masked(self, text: str) -> np.ndarray:
        """[t] int32 of a text with blanks, which is never cut.

        Raises:
            InputError: as ``read``, or there is no blank.
        """
        _check_text(text)
        row = self._row(text, self._tokenizer.encode(text), None)
        if not self.blanks(row):
            raise InputError(f"{text!r} has no blank to fill: write [MASK] for every hidden word, in capitals")
        return row

    def blanks(self, token_ids: np.ndarray) -> tuple[int, ...]:
        """The places of the blanks."""
        return tuple(np.flatnonzero(token_ids == self._tokenizer.mask_id).tolist())

    def filled(self, token_ids: np.ndarray, places: Sequence[int], words: np.ndarray) -> str:
        """A text with words [places] in its blanks."""
        filled = token_ids.copy()
        filled[list(places)] = words
        return self._tokenizer.decode(filled[1:-1])

    def _row(self, text: str, pieces: np.ndarray, length: int | None) -> np.ndarray:
        num_tokens = len(pieces) + 2
        if length is None and num_tokens > self._num_positions:
            raise InputError(
                f"the text {text[:40]!r}… has {num_tokens} tokens, the model has {self._num_positions} positions: "
                "shorten it, or give the predictor the text_length of the checkpoint's training, which cuts it"
            )
        return pack(pieces, min(num_tokens, length or num_tokens), self._tokenizer).token_ids


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"a text is given as {type(text).__name__}: give str, or a list of them")
    if not text.strip():
        raise InputError("a text is empty: write a question, an expression or a caption")
