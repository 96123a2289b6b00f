"""Writes feature dumps as other programs do, from the formats' written field lists. Nothing here reads our code."""

import base64
import collections
import csv
import io
import json
import pathlib
import pickle
from typing import NamedTuple

import h5py
import lmdb
import msgpack
import numpy as np

FEATURES, CLASSES = 6, 5  # CLASSES includes the background


class Picture(NamedTuple):
    image_id: str
    width: int
    height: int
    boxes: np.ndarray
    features: np.ndarray
    class_probs: np.ndarray  # background first


def pictures(count=5, boxes=None, seed=0):
    """Pictures with numeric ids, of unlike sizes, wider than high and higher than wide."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(count):
        n = boxes or int(rng.integers(2, 6))
        width, height = int(rng.integers(300, 640)), int(rng.integers(200, 480))
        corner = rng.random((n, 2)) * [width / 2, height / 2]
        far = corner + 10 + rng.random((n, 2)) * ([width / 2 - 10, height / 2 - 10])
        features = np.maximum(rng.normal(size=(n, FEATURES)), 0).astype("<f4")
        logits = np.exp(rng.normal(size=(n, CLASSES)))
        probs = (logits / logits.sum(1, keepdims=True)).astype("<f4")
        made.append(Picture(str(990001 + k), width, height, np.hstack([corner, far]).astype("<f4"), features, probs))
    return made


def text64(array):
    return base64.b64encode(np.ascontiguousarray(array, "<f4")).decode()


def lines(path, rows, end="\n"):
    path.write_bytes("".join("\t".join(map(str, row)) + end for row in rows).encode())
    return path


def butd_tsv(root, made):
    rows = [(p.image_id, p.width, p.height, len(p.boxes), text64(p.boxes), text64(p.features)) for p in made]
    return lines(root / "butd.bin", rows)


def vilbert_row(p):
    return (
        *(p.image_id, p.width, p.height, len(p.boxes)),
        *(text64(p.boxes), text64(p.features), text64(p.class_probs)),
    )


def vilbert_tsv(root, made):
    return lines(root / "CC.tsv.0", [vilbert_row(p) for p in made])


def lxmert_row(p):
    ids = base64.b64encode(np.arange(len(p.boxes), dtype="<i8")).decode()
    conf = text64(np.ones(len(p.boxes)))
    return (
        *(f"COCO_val2014_{int(p.image_id):012d}", p.height, p.width, ids, conf, ids, conf, len(p.boxes)),
        *(text64(p.boxes), text64(p.features)),
    )


def lxmert_tsv(root, made):
    return lines(root / "val2014_obj36.tsv", [lxmert_row(p) for p in made], end="\r\n")


def background_last(p):
    return np.concatenate([p.class_probs[:, 1:], p.class_probs[:, :1]], axis=1)


def volta_tsv(root, made):
    return lines(root / "volta.tsv", [(*lxmert_row(p), text64(background_last(p)), "x", "y") for p in made])


def fractions(p):
    x1, y1, x2, y2 = (p.boxes / np.array([p.width, p.height] * 2, "f4")).T
    return np.stack([x1, y1, x2, y2, x2 - x1, y2 - y1], axis=1).astype("f4")


def vinvl_values(p):
    return np.hstack([p.features, fractions(p)])


def vinvl_tsv(root, made):
    return lines(root / "features.tsv", [(p.image_id, len(p.boxes), text64(vinvl_values(p))) for p in made])


def vinvl_captioning_tsv(root, made):
    rows = [(p.image_id, json.dumps({"num_boxes": len(p.boxes), "features": text64(vinvl_values(p))})) for p in made]
    return lines(root / "captioning.tsv", rows)


def vinvl_objects_tsv(root, made):
    rows = []
    for p in made:
        objects = [
            {"rect": box.tolist(), "class": "dog", "conf": 0.5, "feature": text64(feature)}
            for box, feature in zip(p.boxes, p.features, strict=True)
        ]
        rows.append((p.image_id, json.dumps({"objects": objects})))
    return lines(root / "objects.tsv", rows)


def write_lmdb(path, items, subdir=True):
    with lmdb.open(str(path), map_size=1 << 24, subdir=subdir) as environment, environment.begin(write=True) as write:
        for key, value in items.items():
            write.put(key.encode(), value)
    return path


def beta_lmdb(root, made, dump=pickle.dumps):
    items = {}
    for p in made:
        names = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features", "cls_prob")
        row = collections.OrderedDict(zip(names, map(str, vilbert_row(p)), strict=True))
        items[p.image_id] = dump(collections.OrderedDict(row, image_id="movies/a.jpg"))
    return write_lmdb(root / "beta.lmdb", {**items, "keys": dump([key.encode() for key in items])})


def beta_lmdb_without_classes(root, made):
    items = {}
    for p in made:
        names = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
        values = (p.image_id, str(p.width), str(p.height), str(len(p.boxes)))
        arrays = (text64(p.boxes).encode(), text64(p.features).encode())
        items[p.image_id] = pickle.dumps(dict(zip(names, (*values, *arrays), strict=True)), 4)
    return write_lmdb(root / "beta2.lmdb", {**items, "keys": pickle.dumps([key.encode() for key in items])})


def multi_task_lmdb(root, made):
    items = {}
    for p in made:
        row = {"image_id": p.image_id, "image_h": p.height, "image_w": p.width, "num_boxes": 100}
        items[p.image_id] = pickle.dumps({**row, "boxes": p.boxes, "features": p.features}, 3)
    return write_lmdb(root / "mt.lmdb", {**items, "keys": pickle.dumps([key.encode() for key in items])})


def volta_lmdb(root, made):
    items = {}
    for k, p in enumerate(made):
        write = text64 if k % 2 else np.asarray  # both occur
        row = {"img_id": p.image_id, "img_h": p.height, "img_w": p.width, "num_boxes": len(p.boxes)}
        arrays = {"boxes": write(p.boxes), "features": write(p.features), "cls_prob": write(background_last(p))}
        items[p.image_id] = pickle.dumps({**row, **arrays})
    return write_lmdb(root / "volta.lmdb", {**items, "keys": pickle.dumps([key.encode() for key in items])})


def mmf_info(p):
    return {
        "bbox": p.boxes,
        "num_boxes": 100,  # what was asked for
        "objects": np.zeros(len(p.boxes), "i8"),
        "cls_prob": np.zeros((len(p.boxes), 1600), "f4") + p.class_probs[:, :1] / 1600,
        "image_width": p.width,
        "image_height": p.height,
    }


def mmf_lmdb(root, made):
    items = {}
    for p in made:
        path = f"train/{p.image_id}"
        items[path] = pickle.dumps({"feature_path": path, "features": p.features, **mmf_info(p)})
    return write_lmdb(root / "mmf.lmdb", {**items, "keys": pickle.dumps([key.encode() for key in items])})


def numpy_to_msgpack(value):
    if isinstance(value, np.ndarray):
        return {
            **{b"nd": True, b"type": value.dtype.str, b"kind": b"", b"shape": value.shape},
            b"data": value.tobytes(),
        }
    raise TypeError(value)


def pack(value):
    return msgpack.packb(value, use_bin_type=True, default=numpy_to_msgpack)


def tensorpack_lmdb(root, made, dump=pack, name="training_feat_all.lmdb"):
    rows = [
        [p.features, p.class_probs, p.boxes, str(len(p.boxes)), str(p.height), str(p.width), p.image_id, "a red kite"]
        for p in made
    ]
    items = {f"{k:08d}": dump(row) for k, row in enumerate(rows)}
    return write_lmdb(root / name, {**items, "__keys__": dump([key.encode() for key in items])}, subdir=False)


def tensorpack_pickle_lmdb(root, made):
    return tensorpack_lmdb(root, made, pickle.dumps, "pickled.lmdb")


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def uniter_arrays(p):
    """Twelve rows in descending confidence, of which the first ten count."""
    fill = 12 - len(p.boxes)
    half = {"features": p.features, "norm_bb": fractions(p), "soft_labels": p.class_probs}
    padded = {name: np.pad(value, ((0, fill), (0, 0)), mode="edge").astype("f2") for name, value in half.items()}
    return {**padded, "conf": np.linspace(0.3, 0.05, 12).astype("f2")}


def uniter_name(p):
    return f"coco_train2014_{int(p.image_id):012d}.npz"


def uniter_lmdb(root, made):
    items = {uniter_name(p): npz(**uniter_arrays(p), allow_pickle=np.array(True)) for p in made}
    return write_lmdb(root / "uniter.lmdb", {**items, "__keys__": json.dumps(list(items)).encode()})


def uniter_msgpack_lmdb(root, made):
    items = {uniter_name(p): pack(uniter_arrays(p)) for p in made}
    return write_lmdb(root / "uniter2.lmdb", {**items, "__keys__": json.dumps(list(items)).encode()})


def uniter_folder(root, made):
    folder = root / "uniter"
    folder.mkdir()
    for p in made:
        (folder / uniter_name(p)).write_bytes(npz(**uniter_arrays(p)))
    (folder / "nbb_th0.2_max100_min10.json").write_text("{}")
    return folder


def mmf_folder(root, made):
    folder = root / "mmf"
    (folder / "train").mkdir(parents=True)
    for p in made:
        np.save(folder / "train" / f"{p.image_id}.npy", p.features)
        np.save(folder / "train" / f"{p.image_id}_info.npy", np.array(mmf_info(p)), allow_pickle=True)
    return folder


def multi_task_folder(root, made):
    folder = root / "mt"
    folder.mkdir()
    for p in made:
        info = {**mmf_info(p), "cls_prob": p.class_probs, "image_id": p.image_id, "features": p.features}
        np.save(folder / f"{p.image_id}.npy", np.array(info), allow_pickle=True)
    return folder


def vinvl_folder(root, made):
    folder = root / "vinvl"
    folder.mkdir()
    for p in made:
        np.save(folder / f"{p.image_id}.npy", vinvl_values(p))
    return folder


def milvlg_folder(root, made):
    folder = root / "milvlg"
    folder.mkdir()
    for p in made:
        info = {"image_id": p.image_id, "image_h": p.height, "image_w": p.width, "num_boxes": len(p.boxes)}
        arrays = {"x": p.features, "bbox": p.boxes, "num_bbox": len(p.boxes), "image_h": p.height, "image_w": p.width}
        (folder / f"{p.image_id}.jpg.npz").write_bytes(npz(**arrays, info=np.array(info, object)))
    return folder


def volta_hdf5(root, made):
    path = root / "volta.h5"
    with h5py.File(path, "w") as file:
        for p in made:
            group = file.create_group(p.image_id)
            group["features"], group["boxes"], group["cls_prob"] = p.features, p.boxes, background_last(p)
            group["img_w"], group["img_h"] = p.width, p.height
    return path


def rows_hdf5(root, made):
    """As hengyuan-hu's: rows in another order than ids, the index a pickle of Python 2."""
    folder = root / "rows"
    folder.mkdir()
    with h5py.File(folder / "train36.hdf5", "w") as file:
        file["image_features"] = np.stack([p.features for p in made])
        file["image_bb"] = np.stack([p.boxes for p in made])
        file["spatial_features"] = np.stack([fractions(p) for p in made])
    index = {int(p.image_id): row for row, p in enumerate(made)}
    (folder / "train36_imgid2idx.pkl").write_bytes(pickle.dumps(index, 2))
    return folder


def image_sizes(root, names):
    """Lines of id, width, height."""
    with (root / "sizes.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(names)
    return pathlib.Path(file.name)
