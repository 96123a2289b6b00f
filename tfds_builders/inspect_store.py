"""Shows what is in a data set on disk: a region store or a set of annotations.

    python tfds_builders/build.py inspect PATH [--image=ID] [--output=inspect.png] [--pictures=DIR]

PATH is the folder of a data set, <data_dir>/<data set>/<config>. Of a region store: what the features mean, how they
are kept, how many there are, value ranges over a sample, and a picture of one record's boxes. Of annotations: counts,
metadata and a few rows.
"""

import argparse
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tfds_builders import inspect_picture, scenes
from vilbert_jax.data.annotations import id_bytes, row_image_ids
from vilbert_jax.data.pictures import Picture, pictures_in
from vilbert_jax.data.region_codec import RegionRecord, decode_record
from vilbert_jax.data.region_files import METADATA_FILE, find_folder, open_builder
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError

_SAMPLE = 500  # records of a store from which value ranges are taken
_ROWS = 3  # of each split of annotations
_WIDTH = 100  # characters of a value that are shown
Line = tuple[str, str]


def main(argv: Sequence[str]) -> int:
    """Shows the data set that the command line (without program and command) names; returns the exit code.

    Raises:
        InputError: there is no data set at that path, it is damaged, or has no such image.
    """
    parser = argparse.ArgumentParser("build.py inspect", description="Shows what is in a data set.")
    parser.add_argument("path", help="folder of the data set: DATA_DIR/DATA_SET/CONFIG")
    parser.add_argument("--image", help="id of the image to show (default: the first)")
    parser.add_argument("--output", default="inspect.png", help="where the figure of a region store goes")
    parser.add_argument("--pictures", default="", help="folder with pictures, IMAGE_ID.jpg or .png")
    args = parser.parse_args(argv)
    folder = find_folder(args.path, "data set")
    metadata = folder / METADATA_FILE
    if not metadata.exists() or "feature_contract" not in metadata.read_text(errors="replace"):
        _print(_annotation_lines(folder, args.image))
        return 0
    store = RegionStore(folder)
    if not len(store):
        raise InputError(f"{folder} holds no images")
    image_id = args.image or _some_ids(store)[0]
    if image_id not in store:
        raise InputError(f"image {image_id!r} is not in {folder}; it has, for example, {', '.join(_some_ids(store))}")
    _print(_store_lines(store))
    record = store[image_id]
    picture = pictures_in(args.pictures) if args.pictures else _drawn(folder)
    found = picture(image_id)
    try:
        inspect_picture.draw(record, store.contract, args.output, picture=found)
    except (OSError, ValueError) as error:
        raise InputError(f"--output={args.output} cannot be written ({error}); name a .png file") from error
    without = "" if found is not None else "; the picture itself was not found, name its folder with --pictures=DIR"
    print(f"\nwrote {args.output}: the {len(record.boxes)} boxes of image {image_id!r}{without}")
    return 0


def _print(lines: Iterable[Line]) -> None:
    for label, value in lines:
        print(f"{label:<26}{value}".rstrip())


def _drawn(folder: pathlib.Path) -> Picture:
    """The pictures of scenes can be drawn again; others cannot."""
    if open_builder(folder).info.name == "scenes":
        return scenes.render
    return lambda image_id: None


def _store_lines(store: RegionStore) -> Iterator[Line]:
    contract = store.contract
    yield "region store", str(store.path)
    yield from _split_lines(store.path)
    yield "ids", ", ".join(_some_ids(store)) + (", ..." if len(store) > _ROWS else "")
    yield "", ""
    for name, value in contract.to_json().items():
        if name != "class_names":
            yield name, str(value)
    yield "class_names", _short(", ".join(contract.class_names)) or "not known"
    storage = store.storage
    classes = {"top_k": f"the {storage.num_classes} largest as float16", "rebuilt": "rebuilt from the features"}
    kept = classes.get(storage.class_probs, storage.class_probs) if contract.num_classes else "none"
    yield "storage", f"features {storage.features}; class probabilities {kept}"
    yield from _note_lines(store.path, {"feature_contract", "storage"})
    picked = np.unique(np.linspace(0, len(store) - 1, _SAMPLE).astype(int))
    sample = [store.stored(image_id.decode()) for image_id in store.sorted_ids[picked].tolist()]
    yield "", ""
    yield f"in {len(sample):,} records", "spread over the store"
    yield from _value_lines([decode_record(stored, contract.num_classes) for stored in sample], contract.class_names)
    kept = [stored.class_probs for stored in sample if stored.class_probs is not None]
    if kept:
        sums = np.concatenate([part.sum(axis=1, dtype=np.float32) for part in kept])
        yield "class probabilities, sum", _range(sums) + (" (of those kept)" if sample[0].class_ids is not None else "")


def _split_lines(folder: pathlib.Path) -> Iterator[Line]:
    splits = open_builder(folder).info.splits
    for name in sorted(splits):
        split = splits[name]
        shards = len(split.shard_lengths)
        size = f"{split.num_bytes / 1e6:,.1f} MB, {split.num_bytes / max(split.num_examples, 1):,.0f} bytes a record"
        yield f"split {name}", f"{split.num_examples:,} records, {shards} shard{'s' * (shards != 1)}, {size}"


def _note_lines(folder: pathlib.Path, known: set[str]) -> Iterator[Line]:
    """What builders noted in the metadata."""
    file = folder / METADATA_FILE
    metadata = json.loads(file.read_bytes()) if file.exists() else {}
    for name, value in metadata.items():
        if name in known:
            continue
        if not isinstance(value, dict):
            yield name, _short(value if isinstance(value, str) else json.dumps(value))
            continue
        for key, part in value.items():
            yield f"{name}: {key}", _short(part if isinstance(part, str) else json.dumps(part))


def _value_lines(records: Sequence[RegionRecord], names: Sequence[str]) -> Iterator[Line]:
    """Ranges of everything that a record holds."""
    sizes = np.array([(record.width, record.height) for record in records])
    boxes = np.concatenate([record.boxes for record in records])
    features = np.concatenate([record.features for record in records])
    of_box = np.repeat(sizes, [len(record.boxes) for record in records], axis=0)
    extent = boxes[:, 2:] - boxes[:, :2]
    yield "pictures, pixels", f"width {_range(sizes[:, 0])}; height {_range(sizes[:, 1])}"
    yield "boxes a picture", _range(np.array([len(record.boxes) for record in records]))
    yield "boxes, pixels", f"width {_range(extent[:, 0])}; height {_range(extent[:, 1])}"
    yield "boxes, % of the picture", _range(100 * extent.prod(axis=1) / of_box.prod(axis=1))
    yield "features", f"{_range(features)}; {(features == 0).mean():.1%} are zero"
    yield "features, norm of a box", _range(np.linalg.norm(features, axis=1))
    probabilities = [record.class_probs for record in records if record.class_probs is not None]
    if not probabilities:
        return
    stacked = np.concatenate(probabilities)
    best = stacked.argmax(axis=1)
    classes, counts = np.unique(best, return_counts=True)
    often = np.argsort(-counts, kind="stable")[:8]
    yield "best class, probability", _range(stacked.max(axis=1))
    yield (
        "best class, most often",
        ", ".join(
            f"{inspect_picture.class_name(int(classes[k]), names)} {counts[k] / len(best):.1%}" for k in often.tolist()
        ),
    )


def _range(values: np.ndarray) -> str:
    low, mean, high = float(values.min()), float(values.mean(dtype=np.float64)), float(values.max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}, mean {mean:.4g}"


def _some_ids(store: RegionStore) -> list[str]:
    return [image_id.decode() for image_id in store.sorted_ids[:_ROWS].tolist()]


def _annotation_lines(folder: pathlib.Path, image_id: str | None) -> Iterator[Line]:
    """Counts, notes and rows: the first of each split, or those of one image."""
    builder = open_builder(folder)
    yield "annotation set", str(folder)
    yield from _split_lines(folder)
    yield from _note_lines(folder, set())
    shown = 0
    for split in sorted(builder.info.splits):
        rows: Any = builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]: TFDS's decorator hides it
        numbers = list(range(len(rows)))
        if "image_id" in rows.dataset_info.features:
            ids = id_bytes(row_image_ids(rows))
            yield f"images in {split}", f"{len(np.unique(ids)):,}"
            if image_id is not None:
                numbers = np.flatnonzero(ids == np.bytes_(image_id.encode())).tolist()
        for number in numbers[:_ROWS]:
            yield "", ""
            yield f"{split}[{number}]", ""
            for name, value in rows[number].items():
                yield f"  {name}", _value(value)
            shown += 1
    if image_id is not None and not shown:
        raise InputError(f"no row of {folder} is about image {image_id!r}")


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return _short(value.decode(errors="replace"))
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, list):
        return _short(", ".join(_value(item) for item in value))
    return _short(str(value))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."
