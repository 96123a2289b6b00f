"""Region features of pictures: python experiments/extract_features.py --weights=FILE --images=DIR --output=DIR.

--weights     the detector: Hugging Face's frcnn-vg-finetuned, MILVLG's bua-caffe-frcn-r101 or detector.safetensors of
              experiments/train_detector.py. What it is, its tensors say.
--images      a folder with everything in it, a text file with one path a line, a zip, one picture, or
              TFDS:NAME/CONFIG, a data set with the features image and image_id (embedded ones are built).
--output      folder of the region store. As DATA_DIR/region_features/NAME, recipes read it with
              --config.regions=region_features/NAME. The same command again goes on where it was stopped.
--boxes       10-36: regions that are surely something, at least 10, at most 36, as in the paper; 10-100; 36: always 36;
              best100: the best 100, as MMF keeps them; hf36: as Hugging Face's LXMERT keeps them.
--given_boxes instead: boxes to describe. JSON lines, {"image_id": "42", "boxes": [[x1, y1, x2, y2], ...]}, or TFDS.

Files that cannot be read are listed in OUTPUT/unreadable.tsv, the others are extracted. See docs/detector.md.
"""

import argparse
import functools
import pathlib
import sys
from typing import Any

import jax

from tfds_builders import embedded, scenes
from tfds_builders.region_features import extracted
from vilbert_jax import cli
from vilbert_jax.checkpoints.detectors import load_detector
from vilbert_jax.data.annotations import data_folder
from vilbert_jax.data.region_codec import Storage
from vilbert_jax.extraction.class_names import with_class_names
from vilbert_jax.extraction.contract import parse_rule
from vilbert_jax.extraction.extractor import RegionExtractor
from vilbert_jax.extraction.given import GivenBoxExtractor, pictures_with_boxes, read_given_boxes
from vilbert_jax.extraction.run import extract_to_store
from vilbert_jax.extraction.sources import TFDS_PREFIX, open_pictures
from vilbert_jax.sharding import MeshConfig, make_mesh


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--weights", required=True)
    add("--images", required=True)
    add("--output", required=True, type=pathlib.Path)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--boxes", default="10-36")
    which.add_argument("--given_boxes")
    ids = "file names without folders and ending, paths without ending, or the numbers that names end with"
    add("--image_ids", default="names", choices=["names", "paths", "numbers"], help=ids)
    add("--storage", default="int8", choices=["int8", "float16"], help="of features; float16 takes twice the space")
    add("--class_names", help="names of the objects, one a line, background not among them (objects_vocab.txt)")
    add("--batch_size", type=int, default=1, help="pictures a step on each device")
    add("--readers", type=int, default=4, help="threads that read pictures; each needs 7 bytes a pixel, of WebP 16")
    add("--data_dir", help="TFDS folder of TFDS:NAME/CONFIG; default: TFDS_DATA_DIR or ~/tensorflow_datasets")
    args = parser.parse_args()
    rule = parse_rule(args.boxes)
    drawn = [f"scenes/{config.name}" for config in scenes.Builder.BUILDER_CONFIGS]
    sources = (args.images, args.given_boxes)
    embedded.ensure([name for name in drawn if TFDS_PREFIX + name in sources], data_folder(args.data_dir))
    say = functools.partial(print, file=sys.stderr)
    pictures = open_pictures(args.images, args.image_ids, data_dir=args.data_dir)
    detector = load_detector(args.weights)
    if args.class_names:
        detector = with_class_names(detector, args.class_names)
    devices = jax.local_devices()
    mesh = make_mesh(MeshConfig(), devices)
    extractor = RegionExtractor(detector, rule, batch_size=args.batch_size * len(devices), mesh=mesh)
    if args.given_boxes is not None:
        boxes = read_given_boxes(args.given_boxes, data_dir=args.data_dir)
        pictures, extractor = pictures_with_boxes(pictures, boxes, say), GivenBoxExtractor(extractor, boxes)
    print(f"{detector.family}: every parameter found, {len(detector.left_out)} other entries of the file left out")
    print(f"{len(pictures)} pictures, {len(devices)} devices, {extractor.contract.selection_rule}")
    options: dict[str, Any] = dict(storage=Storage(features=args.storage), num_readers=args.readers, say=say)
    extract_to_store(extractor, pictures, args.output.expanduser(), extracted.BUILDING, **options)


if __name__ == "__main__":
    cli.guarded(main)
