"""The reader of strangers' pickles: gives what pickle gives for data, and refuses everything else unexecuted."""

import collections
import io
import os
import pathlib
import pickle
import pickletools

import numpy as np
import pytest

from vilbert_jax.data import restricted_pickle
from vilbert_jax.errors import InputError

ARRAYS = [
    np.arange(12, dtype="<f4").reshape(3, 4),
    np.arange(12, dtype=">i8").reshape(3, 4),
    np.asfortranarray(np.arange(6, dtype="f2").reshape(2, 3)),
    np.zeros((0, 4), "f4"),
    np.array(3.5),
    np.array([True, False]),
    np.array(["ab", "ü"]),
    np.array([b"ab", b"c"]),
]


def same(a, b):
    if isinstance(a, np.ndarray):
        assert type(b) is np.ndarray
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if a.dtype == object:
            for x, y in zip(a.ravel(), b.ravel(), strict=True):
                same(x, y)
        else:
            np.testing.assert_array_equal(a, b)
    elif isinstance(a, dict):
        assert type(a) is type(b)
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize("protocol", range(6))
def test_data_comes_back_as_it_was(protocol):
    nested = {
        "arrays": ARRAYS,
        "row": collections.OrderedDict([("b", "1"), ("a", b"\xff\x00")]),
        "scalars": (np.float32(1.5), np.int64(-3), np.bool_(True), None, 2**70, 0.1),
        "objects": np.array([{"x": np.arange(3)}, [np.zeros(2)]], object),
        "sets": [{1, 2}, frozenset({3})],
        b"bytes key": b"",
    }
    same(nested, restricted_pickle.loads(pickle.dumps(nested, protocol), "here"))


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_old_and_new_names_of_numpy(module):
    data = pickle.dumps(np.arange(3, dtype="f4"), 2).replace(b"numpy._core.multiarray", module.encode())
    np.testing.assert_array_equal(restricted_pickle.loads(data, "here"), np.arange(3, dtype="f4"))


def test_python_2_arrays_and_strings():
    """As Python 2's numpy wrote them: byte strings for type, order and content."""
    content = np.array([1.5, -2], "<f4").tobytes()
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + content + b"tb."
    )
    np.testing.assert_array_equal(restricted_pickle.loads(data, "here"), np.array([1.5, -2], "f4"))
    assert restricted_pickle.loads(b"\x80\x02}U\x03abcK\x05s.", "here") == {"abc": 5}


class Touch:
    """A pickle that would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_named_and_not_run(tmp_path, protocol):
    made = tmp_path / "made"
    data = pickle.dumps({"features": np.zeros(2), "x": Touch(made)}, protocol)
    with pytest.raises(InputError, match=r"file a, record 7: the pickle asks for (pathlib|_*builtin).*not run"):
        restricted_pickle.loads(data, "file a, record 7")
    assert not made.exists()
    pickle.loads(data)  # it does work where nobody looks
    assert made.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cposix\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\ngetattr\n(S'1'\nS'2'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfrombuffer\n(S'x'\ntR.",
        b"cnumpy\nrecarray\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
        b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\nNNtR.",
    ],
)
def test_other_globals(data):
    with pytest.raises(InputError, match=r"here: the pickle asks for .*not run"):
        restricted_pickle.loads(data, "here")


def forged(dtype_state, code="V8"):
    """An array of one pointer, as a pickle would forge it."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntcnumpy\ndtype\n(S'"
        + code.encode()
        + b"'\nI0\nI1\ntR"
        + dtype_state
        + b"bI00\nS'AAAAAAAA'\ntb."
    )


@pytest.mark.parametrize(
    "data",
    [
        forged(b"(I3\nS'|'\nN(S'a'\nt(dp0\nS'a'\n(S'O'\nI0\ntsI8\nI1\nI0\nt"),  # fields that are objects
        forged(b"(I3\nS'|'\nNNNI8\nI1\nI0\nt", code="O8"),  # bytes as objects
        forged(b"(I3\nS'|'\nNNNI8\nI1\nI0\nt", code="V4"),  # more bytes than the shape takes
        forged(b"(I3\nS'|'\nNNNI8\nI1\nI0\nt", code="M8"),
        b"cnumpy\ndtype\n.",
        b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR.",
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
    ],
)
def test_forged_arrays_are_refused(data):
    with pytest.raises(InputError, match="here: "):
        restricted_pickle.loads(data, "here")


def test_attributes_of_what_is_handed_out_cannot_be_changed():
    reach = b"c_codecs\nencode\n(N(dS'__defaults__'\n(S'latin1'\ntstb0"
    with pytest.raises(InputError, match="here: damaged pickle"):
        restricted_pickle.loads(reach + b"c_codecs\nencode\n(S'x'\ntR.", "here")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_cut_off_pickles_are_damaged(protocol):
    data = pickle.dumps({"a": np.arange(100), "b": ["x"] * 5}, protocol)
    for stop in (0, 1, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(InputError, match="here: "):
            restricted_pickle.loads(data[:stop], "here")


def npy(value):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("array", [*ARRAYS[:4], ARRAYS[5]])
def test_npy_arrays(array):
    same(np.ascontiguousarray(array), np.ascontiguousarray(restricted_pickle.read_npy(npy(array), "here")))


def test_npy_objects():
    value = {"bbox": np.ones((2, 4), "f4"), "num_boxes": 2, "image_id": "a"}
    same(value, restricted_pickle.read_npy(npy(np.array(value, object)), "here"))
    assert restricted_pickle.read_npy(npy(np.array(7)), "here") == 7
    assert restricted_pickle.is_npy(npy(np.array(7)))


def test_npy_that_is_bad(tmp_path):
    with pytest.raises(InputError, match="here: no .npy file"):
        restricted_pickle.read_npy(b"PK\x03\x04", "here")
    with pytest.raises(InputError, match="takes 16 bytes, there are 15"):
        restricted_pickle.read_npy(npy(np.zeros(4, "f4"))[:-1], "here")
    with pytest.raises(InputError, match="expected numbers"):
        restricted_pickle.read_npy(npy(np.zeros(2, [("a", "f4"), ("b", "O")])), "here")
    with pytest.raises(InputError, match="could run code"):
        restricted_pickle.read_npy(npy(np.array(Touch(tmp_path / "x"), object)), "here")
    assert not os.listdir(tmp_path)


def test_the_pickles_above_are_pickles():
    """Guards the hand-written ones: each is a whole program, refused for what it asks and not for its form."""
    for data in (forged(b"(I3\nS'|'\nNNNI8\nI1\nI0\nt"), b"cnumpy\ndtype\n."):
        assert list(pickletools.genops(data))[-1][0].name == "STOP"
