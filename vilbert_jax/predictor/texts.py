"""Sentences as the model reads them, and back."""

import logging
import re
from collections.abc import Sequence

import numpy as np

from vilbert_jax.data.text import Tokenizer, Truncation, pack
from vilbert_jax.errors import InputError

_NUM_NAMED = 10  # unknown words in one message
_WORD = re.compile(r"\[[A-Z]+\]|\w+|[^\w\s]")
_SPELT = re.compile(r"(?<!\S)\S( ##\S)+(?= (?!##)|$)")  # a word in pieces of one letter, from its first to its last

_logger = logging.getLogger(__name__)


class TextReader:
    """Turns texts into word pieces, ``[CLS] pieces [SEP]`` without padding, t tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        num_positions: int,
        text_length: int | None,
        truncation: Truncation = "keep_sep",
    ) -> None:
        """Keeps the limits.

        Args:
            tokenizer: of the checkpoint.
            num_positions: of the model.
            text_length: tokens to keep of a longer text; None: it is refused.
            truncation: how it is cut, see ``text.pack``.

        Raises:
            InputError: there is no such length.
        """
        if text_length is not None and not 3 <= text_length <= num_positions:
            raise InputError(f"text_length is {text_length}; the model reads 3 to {num_positions} tokens")
        self._tokenizer, self._num_positions = tokenizer, num_positions
        self._text_length = text_length
        self._reported: set[str] = set()  # unknown words
        self._truncation: Truncation = truncation

    @property
    def empty(self) -> np.ndarray:
        """[2] int32: [CLS] [SEP]."""
        return pack(np.zeros(0, np.int32), 2, self._tokenizer).token_ids

    def read(self, text: str) -> np.ndarray:
        """[t] int32.

        Raises:
            InputError: no text, an empty one, or one that is too long.
        """
        pieces = self._pieces(text)
        if self._text_length is None and len(pieces) + 2 > self._num_positions:
            raise self._too_long(text, pieces, "shorten it (in Python, the predictor's text_length= cuts it)")
        return self._row(pieces, self._text_length)

    def read_masked(self, text: str) -> np.ndarray:
        """[t] int32 of a text with blanks, which is never cut.

        Raises:
            InputError: as ``read``, or there is no blank.
        """
        pieces = self._pieces(text)
        if len(pieces) + 2 > self._num_positions:
            raise self._too_long(text, pieces, "shorten it")
        row = self._row(pieces, None)
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

    def _pieces(self, text: str) -> np.ndarray:
        _check_text(text)
        pieces = self._tokenizer.encode(text)
        if self._has_unknown(pieces):
            self._report_unknown(text)
        return pieces

    def _has_unknown(self, pieces: np.ndarray) -> bool:
        """Whether the vocabulary lacks a word: it is [UNK], or in pieces of one letter each."""
        return self._tokenizer.unk_id in pieces or bool(_SPELT.search(" ".join(self._tokenizer.tokens(pieces))))

    def _report_unknown(self, text: str) -> None:
        """Says which words the vocabulary lacks, each of them once."""
        words = [word for word in dict.fromkeys(_WORD.findall(text)) if word not in self._reported]
        if new := [word for word in words if self._has_unknown(self._tokenizer.encode(word))]:
            self._reported.update(new)
            _logger.warning(
                "not in the vocabulary, so that the model knows nothing of them (they are read as [UNK], or letter by "
                "letter): %s%s",
                ", ".join(new[:_NUM_NAMED]), ", ..." * (len(new) > _NUM_NAMED),
            )  # fmt: skip

    def _too_long(self, text: str, pieces: np.ndarray, remedy: str) -> InputError:
        return InputError(
            f"the text {text[:40]!r}… has {len(pieces) + 2} tokens, the model has {self._num_positions} positions: "
            + remedy
        )

    def _row(self, pieces: np.ndarray, length: int | None) -> np.ndarray:
        kept = len(pieces) + 2 if length is None else min(len(pieces) + 2, length)
        return pack(pieces, kept, self._tokenizer, truncation=self._truncation).token_ids


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"a text is given as {type(text).__name__}: give str, or a list of them")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text {text[:40]!r} holds bytes that are not UTF-8: type or save it in UTF-8") from error
    if not text.strip():
        raise InputError("a text is empty: write a question, an expression or a caption")
