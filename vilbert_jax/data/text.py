"""Word pieces: a picklable BERT tokenizer and the layout of a text row.

T tokens of a row, n word pieces of a text.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from vilbert_jax.errors import InputError
from vilbert_jax.hub import hub_folder

Truncation = Literal["keep_sep", "cut"]

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


class Tokenizer:
    """A WordPiece vocabulary and the way from text to its ids. Small, picklable, safe to share between threads.

    Attributes:
        vocab_size: number of ids; every id is in ``0..vocab_size - 1``.
        pad_id: always 0, since an id of 0 means padding everywhere.
        unk_id: the id of a word the vocabulary cannot spell.
        cls_id: opens a text.
        sep_id: closes a text.
        mask_id: stands for a hidden word.
        fingerprint: hash of the vocabulary and of whether it is lower-cased. Two tokenizers of one fingerprint give
            a checkpoint the same ids, wherever they were read from.
    """

    def __init__(self, backend: tokenizers.Tokenizer, origin: str) -> None:
        """Wraps ``backend``; ``origin`` is the name used in error messages.

        Raises:
            InputError: not a WordPiece vocabulary, a special token is missing, or the ids have holes.
        """
        if not isinstance(backend.model, models.WordPiece):
            kind = type(backend.model).__name__
            raise InputError(f"{origin} is a {kind} tokenizer; ViLBERT reads BERT word pieces: give a BERT vocabulary")
        vocab = backend.get_vocab()
        missing = [token for token in _SPECIAL if token not in vocab]
        if missing:
            raise InputError(
                f"the vocabulary {origin} has no {', '.join(missing)}: a BERT vocabulary holds {' '.join(_SPECIAL)}; "
                "add the missing lines or give another vocabulary"
            )
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise InputError(
                f"the ids of the vocabulary {origin} are not 0..{len(vocab) - 1}: it has repeated or missing entries; "
                "give the complete vocabulary, one token a line"
            )
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (vocab[token] for token in _SPECIAL)
        if self.pad_id != 0:
            raise InputError(
                f"[PAD] has id {self.pad_id} in the vocabulary {origin}; it must be the first entry (id 0)"
            )
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.vocab_size = len(vocab)
        normalizer = backend.normalizer
        lower_cased = normalizer is not None and normalizer.normalize_str("A") == "a"
        listing = "\n".join(["lower-cased" if lower_cased else "cased", *sorted(vocab, key=vocab.__getitem__)])
        self.fingerprint = hashlib.sha256(listing.encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """The whole tokenizer as the text of a ``tokenizer.json``, which ``load_tokenizer`` and transformers read."""
        return self._backend.to_str()

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of the word pieces of ``text``: [n] int32, no [CLS], no [SEP], not truncated."""
        return np.array(self._backend.encode(text, add_special_tokens=False).ids, np.int32)

    def tokens(self, token_ids: Iterable[int] | np.ndarray) -> list[str]:
        """Returns the word piece of each id, special tokens included."""
        return [self._backend.id_to_token(int(i)) or "[UNK]" for i in token_ids]

    def decode(self, token_ids: Iterable[int] | np.ndarray) -> str:
        """Returns readable text: pieces joined to words, special tokens left out."""
        return self._backend.decode([int(i) for i in token_ids], skip_special_tokens=True)


class PackedText(NamedTuple):
    """One text row."""

    token_ids: np.ndarray  # [T] int32, 0 in padding
    text_mask: np.ndarray  # [T] bool, True = a token


def pack(pieces: np.ndarray, length: int, tokenizer: Tokenizer, *, truncation: Truncation = "keep_sep") -> PackedText:
    """Lays out ``[CLS] pieces [SEP]`` and padding in ``length`` tokens; the tail of a long text is cut off.

    Args:
        pieces: [n] ids of word pieces.
        length: T, at least 2.
        tokenizer: knows the special ids.
        truncation: ``keep_sep`` cuts the pieces (vilbert-multi-task); ``cut`` cuts the finished row, so that a long
            text has no [SEP] (vilbert_beta, whose fine-tuned checkpoints saw it so).

    Returns:
        The row. Piece i stands at token i + 1.
    """
    if truncation == "keep_sep":
        pieces = pieces[: length - 2]
    row = np.concatenate([[tokenizer.cls_id], pieces, [tokenizer.sep_id]])[:length]
    token_ids = np.zeros(length, np.int32)
    token_ids[: len(row)] = row
    return PackedText(token_ids, np.arange(length) < len(row))


class PackedPair(NamedTuple):
    """One row of two texts."""

    token_ids: np.ndarray  # [T] int32, 0 in padding
    token_types: np.ndarray  # [T] int32, 0 up to the first [SEP], 1 in the second text, 0 in padding
    text_mask: np.ndarray  # [T] bool, True = a token


def pack_pair(first: np.ndarray, second: np.ndarray, length: int, tokenizer: Tokenizer) -> PackedPair:
    """Lays out ``[CLS] first [SEP] second [SEP]``; where both are too long together, the longer one loses its tail.

    Source: ``_truncate_seq_pair`` of vilbert_beta, without its side effect: there a question that was cut for one
    choice stays cut for the next ones.

    Args:
        first: [n] ids of word pieces.
        second: [m] ids of word pieces.
        length: T, at least 3.
        tokenizer: knows the special ids.
    """
    room = length - 3
    # Cutting one piece at a time off the longer text, off the second where both are as long.
    num_first = min(len(first), max(room - len(second), (room + 1) // 2))
    num_second = min(len(second), room - num_first)
    row = np.concatenate(
        [[tokenizer.cls_id], first[:num_first], [tokenizer.sep_id], second[:num_second], [tokenizer.sep_id]]
    )
    token_ids, token_types = np.zeros(length, np.int32), np.zeros(length, np.int32)
    token_ids[: len(row)] = row
    token_types[num_first + 2 : len(row)] = 1
    return PackedPair(token_ids, token_types, np.arange(length) < len(row))


def load_tokenizer(vocab: str | Path) -> Tokenizer:
    """Reads a BERT WordPiece vocabulary.

    A plain ``vocab.txt`` is lower-cased with accents stripped, like bert-base-uncased; a folder or a hub name says
    itself (``tokenizer.json``, or ``tokenizer_config.json`` beside ``vocab.txt``). The results are those of the fast
    tokenizers of the transformers library, whose engine this is.

    Args:
        vocab: a ``vocab.txt`` or ``tokenizer.json`` file, a folder that holds one, or a name on the Hugging Face hub
            such as ``bert-base-uncased``, looked up in the local cache first.

    Raises:
        InputError: nothing usable was found; the message says what to do.
    """
    path = Path(vocab).expanduser()
    if path.is_file():
        return _from_file(path, lower_case=True)
    if path.is_dir():
        return _from_folder(path, str(vocab))
    name = str(vocab)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.suffix in (".txt", ".json"):
        raise InputError(f"no vocabulary at {name}: give a vocab.txt file, a folder with one, or a hub name")
    return _from_folder(hub_folder(name, _FILES, complete=_has_vocabulary, what="vocabulary"), name)


def _has_vocabulary(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.txt").is_file()


def _from_folder(folder: Path, origin: str) -> Tokenizer:
    if (folder / "tokenizer.json").is_file():
        return _from_file(folder / "tokenizer.json", lower_case=True)
    if not _has_vocabulary(folder):
        raise InputError(f"{origin} has neither tokenizer.json nor vocab.txt: give the folder of a BERT tokenizer")
    settings = folder / "tokenizer_config.json"
    lower_case = json.loads(settings.read_text("utf-8")).get("do_lower_case", True) if settings.is_file() else True
    return _from_file(folder / "vocab.txt", lower_case=lower_case)


def _from_file(path: Path, *, lower_case: bool) -> Tokenizer:
    if path.suffix == ".json":
        try:
            return Tokenizer(tokenizers.Tokenizer.from_file(str(path)), str(path))
        except InputError:
            raise
        except Exception as error:  # the engine raises bare Exception
            raise InputError(
                f"{path} is not a tokenizer file ({error}): give a vocab.txt or a tokenizer.json"
            ) from error
    try:
        lines = path.read_text("utf-8").rstrip("\r\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: give a vocab.txt with one token a line") from error
    # Not splitlines(): vocabularies may hold tokens that Python takes for line ends.
    vocab = {line.removesuffix("\r"): number for number, line in enumerate(lines)}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([token for token in _SPECIAL if token in vocab])
    return Tokenizer(backend, str(path))
