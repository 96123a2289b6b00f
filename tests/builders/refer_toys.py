"""Writes files in the layout of REFER as Python 2 wrote them."""

import io
import json
import pickle


class Python2Pickler(pickle._Pickler):
    """Writes text as Python 2's byte strings, in protocol 0."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012  (the parent's own convention)

    def __init__(self, file):
        super().__init__(file, protocol=0)

    def save_byte_string(self, text):
        self.write(b"S" + repr(text.encode("latin1"))[1:].encode() + b"\n")
        self.memoize(text)

    dispatch[str] = save_byte_string


def python2_pickle(value):
    file = io.BytesIO()
    Python2Pickler(file).dump(value)
    return file.getvalue()


def sentence(sent_id, raw, **more):
    words = raw.lower()
    return {"tokens": words.split(), "raw": raw, "sent_id": sent_id, "sent": words} | more


def ref(ref_id, split, sentences, *, ann_id, image_id, **more):
    record = {
        "sent_ids": [one["sent_id"] for one in sentences],
        "file_name": f"COCO_train2014_{image_id:012d}_{ref_id}.jpg",
        "ann_id": ann_id,
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "category_id": 1,
        "sentences": sentences,
    }
    return record | more


def annotation(ann_id, image_id, bbox, **more):
    record = {
        "segmentation": [[1.5, 2.0, 3.0, 4.0, 5.0, 6.0]],
        "area": 10.5,
        "iscrowd": 0,
        "image_id": image_id,
        "bbox": bbox,
        "category_id": 1,
        "id": ann_id,
    }
    return record | more


def instances(annotations):
    content = {
        "info": {"version": "made up"},
        "licenses": [],
        "images": [],
        "annotations": annotations,
        "categories": [],
    }
    return json.dumps(content).encode()


def write(folder, refs, annotations, name="refs(unc).p"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(python2_pickle(refs))
    (folder / "instances.json").write_bytes(instances(annotations))
