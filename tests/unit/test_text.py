"""Word pieces: the ids of the reference tokenizer, rows of a fixed length, and errors that say what to do."""

import json
import pickle

import numpy as np
import pytest

from vilbert_jax.data.text import load_tokenizer, pack
from vilbert_jax.errors import InputError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "red", "circle", "##s", "left", "of", "cafe", "##teria", ".", ",", "don", "'", "t", "東", "京", "un"]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(SPECIAL + WORDS) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(vocab):
    return load_tokenizer(vocab)


def test_encode_splits_into_lower_cased_word_pieces(tokenizer):
    ids = tokenizer.encode("A red CIRCLES, café.")
    assert tokenizer.tokens(ids) == ["a", "red", "circle", "##s", ",", "cafe", "."]
    assert ids.dtype == np.int32
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.tokens(tokenizer.encode("zebra")) == ["[UNK]"]
    assert tokenizer.vocab_size == len(SPECIAL + WORDS)
    assert [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id] == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_decode_joins_pieces_and_drops_special_tokens(tokenizer):
    packed = pack(tokenizer.encode("a red cafeteria"), 10, tokenizer)
    assert tokenizer.decode(packed.token_ids) == "a red cafeteria"


def test_same_ids_as_the_reference_tokenizer(vocab, tokenizer):
    from transformers import BertTokenizerFast  # pyright: ignore[reportAttributeAccessIssue]  (a lazy name)

    reference = BertTokenizerFast.from_pretrained(vocab.parent)
    texts = [
        "A red CIRCLES, café.",
        "don't  un\tred\n",
        "東京 a",
        "x" * 200 + " a",
        "a [MASK] red",
        "\u00ad\u200da",
        "ﬁ Å…",
    ]
    for text in texts:
        assert tokenizer.encode(text).tolist() == reference.encode(text, add_special_tokens=False), text


def test_folder_json_and_pickle_give_the_same_tokenizer(tmp_path, vocab, tokenizer):
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")
    others = [
        load_tokenizer(vocab.parent),
        load_tokenizer(str(tmp_path)),
        load_tokenizer(tmp_path / "tokenizer.json"),
        pickle.loads(pickle.dumps(tokenizer)),
    ]
    for other in others:
        assert other.fingerprint == tokenizer.fingerprint
        assert other.encode("A red cafeteria").tolist() == tokenizer.encode("A red cafeteria").tolist()


def test_json_with_truncation_and_padding_encodes_whole_texts(tmp_path, vocab):
    backend = load_tokenizer(vocab)._backend
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(tmp_path).encode("a red circle left of a red circle ,")) == 9


def test_fingerprint_depends_on_order_and_casing(tmp_path, tokenizer):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS[::-1]]), encoding="utf-8")
    reordered = load_tokenizer(tmp_path)
    assert reordered.fingerprint != tokenizer.fingerprint
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\r\n", encoding="utf-8")
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    cased = load_tokenizer(tmp_path)
    assert cased.fingerprint != tokenizer.fingerprint
    assert cased.tokens(cased.encode("A a")) == ["[UNK]", "a"]


def test_pack_frames_pads_and_cuts_the_tail(tokenizer):
    pieces = np.array([5, 6, 7], np.int32)
    row = pack(pieces, 7, tokenizer)
    assert row.token_ids.tolist() == [2, 5, 6, 7, 3, 0, 0]
    assert row.text_mask.tolist() == [True] * 5 + [False] * 2
    assert row.token_ids.dtype == np.int32
    assert pack(pieces, 4, tokenizer).token_ids.tolist() == [2, 5, 6, 3]
    assert pack(pieces[:0], 4, tokenizer).token_ids.tolist() == [2, 3, 0, 0]
    full = pack(pieces, 5, tokenizer)
    assert full.token_ids.tolist() == [2, 5, 6, 7, 3]
    assert full.text_mask.all()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "a"], r"\[SEP\], \[MASK\]"),
        ([*SPECIAL, "a", "a"], "repeated"),
        ([*SPECIAL[::-1], "a"], r"\[PAD\] has id 4"),
    ],
)
def test_unusable_vocabularies_are_named(tmp_path, lines, message):
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path / "vocab.txt")


def test_missing_files_are_errors_without_a_look_at_the_hub(tmp_path):
    for missing in (tmp_path / "vocab.txt", "./nowhere", "tfds_builders/scenes/nowhere.txt"):
        with pytest.raises(InputError, match="no vocabulary at"):
            load_tokenizer(missing)
    with pytest.raises(InputError, match=r"neither tokenizer.json nor vocab.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="not a tokenizer file"):
        load_tokenizer(tmp_path)
    (tmp_path / "model.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        load_tokenizer(tmp_path / "model.txt")


def test_other_kinds_of_tokenizers_are_refused(tmp_path):
    import tokenizers

    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="BPE"):
        load_tokenizer(tmp_path)


def test_hub_name_is_read_from_the_cache_or_refused(monkeypatch, vocab, tokenizer):
    import huggingface_hub

    calls = []

    def cached(name, **options):
        calls.append((name, options))
        return str(vocab.parent)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert load_tokenizer("bert-base-uncased").fingerprint == tokenizer.fingerprint
    assert calls == [("bert-base-uncased", {"local_files_only": True})]

    def offline(name, **options):
        raise FileNotFoundError(name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError, match=r"'bert-base-uncased'.*Give the path of a file or folder"):
        load_tokenizer("bert-base-uncased")
