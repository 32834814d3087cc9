"""COCO's own files and those made on its pictures: captions, instances, LVIS, RefCOCO."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from train.data.pictures import Gallery
from train.data.sample import Area, BadSampleError, Picture, Sample, Tally, Turn
from train.data.source import DataConfig, read_json_file, read_plain_pickle

Read = TypeVar("Read")
PANOPTIC = r"(-(other|merged|stuff))+$"  # what panoptic COCO adds to the names of materials


def picture_of(image: Mapping[str, Any], gallery: Gallery) -> Picture:
    """The picture of an entry of "images". LVIS gives an address instead of a file name, whose last
    two parts are the folder and name in COCO."""
    if "file_name" not in image:
        folder, name = image["coco_url"].rsplit("/", 2)[1:]
        return gallery.first(f"{folder}/{name}", name)
    return gallery[image["file_name"]]


def coco_box(bbox: list[float]) -> tuple[float, float, float, float]:
    """COCO's x, y, width, height -> x0, y0, x1, y1."""
    x, y, width, height = (float(value) for value in bbox)
    return x, y, x + width, y + height


def area_of(annotation: Mapping[str, Any]) -> Area:
    """The segmentation of an annotation, else its box."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict) and segmentation:
        return Area(rle=segmentation)
    if segmentation:
        return Area(polygons=tuple(tuple(map(float, corners)) for corners in segmentation))
    return Area(box=coco_box(annotation["bbox"]))


def by_picture(
    annotations: Mapping[str, Any], tally: Tally, read: Callable[[dict[str, Any]], Read]
) -> dict[Any, list[Read]]:
    """What `read` makes of each annotation, by its picture's id. Those that cannot be read, that
    come twice or whose picture is not listed are counted."""
    listed = {image.get("id") for image in annotations["images"]}
    seen: set[Any] = set()
    found: dict[Any, list[Read]] = defaultdict(list)
    for annotation in annotations["annotations"]:
        id = annotation.get("id")
        with tally.row(f"annotation {id}"):
            if id in seen:
                raise BadSampleError("an annotation's id comes twice; the first is kept")
            if annotation["image_id"] not in listed:
                raise BadSampleError("an annotation's picture is not listed")
            found[annotation["image_id"]].append(read(annotation))
            seen |= set() if id is None else {id}
    return found


def name_in(names: Mapping[Any, tuple[str, ...]], category: Any) -> tuple[str, ...]:
    if category not in names:
        raise BadSampleError("an annotation's category is not listed")
    return names[category]


def read_captions(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """captions_*.json; one sample a picture, with all its captions."""
    annotations = read_json_file(config.inside("captions.json"))
    gallery = config.gallery("images")
    captions = by_picture(annotations, tally, lambda one: " ".join(one["caption"].split()))
    for image in annotations["images"]:
        with tally.row(f"image {image.get('id')}"):
            if image["id"] in captions:  # others were not captioned
                turns = (Turn("", tuple(captions[image["id"]])),)
                yield Sample(str(image["id"]), picture_of(image, gallery), turns)


def read_instances(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """instances_*.json and LVIS' files: every thing of a picture is called by its category, and in
    LVIS by the category's synonyms. Crowds are left out."""
    annotations = read_json_file(config.inside("instances.json"))
    gallery = config.gallery("images")
    names = {c["id"]: names_of(c) for c in annotations["categories"]}
    annotations["annotations"] = [
        one for one in annotations["annotations"] if not one.get("iscrowd")
    ]
    things = by_picture(
        annotations, tally, lambda one: (area_of(one), name_in(names, one["category_id"]))
    )
    for image in annotations["images"]:
        with tally.row(f"image {image.get('id')}"):
            here = things.get(image["id"])
            if here:
                turns = tuple(Turn("", name, (i,)) for i, (_, name) in enumerate(here))
                areas = tuple(area for area, _ in here)
                yield Sample(str(image["id"]), picture_of(image, gallery), turns, areas)


def names_of(category: Mapping[str, Any]) -> tuple[str, ...]:
    """ "stop_sign", "apple_(fruit)" and panoptic COCO's "sky-other-merged" as words."""
    listed = category.get("synonyms") or [category["name"]]
    plain = (re.sub(PANOPTIC, "", name.split("_(")[0]).replace("_", " ") for name in listed)
    return tuple(dict.fromkeys(plain))


def read_refcoco(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """refs(...).p with instances.json beside: RefCOCO, RefCOCO+ and RefCOCOg. One sample an
    object, with all that people called it."""
    references = read_plain_pickle(config.inside("refs(unc).p", "refs(umd).p", "refs(google).p"))
    instances = read_json_file(config.second("instances.json"))
    gallery = config.gallery("images")
    part = config.one_split(reference.get("split") for reference in references)
    images = {image["id"]: image for image in instances["images"]}
    annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
    for reference in references:
        with tally.row(f"reference {reference.get('ref_id')}"):
            if part not in (None, reference["split"]):
                continue
            annotation = annotations[reference["ann_id"]]
            said = tuple(sentence["sent"] for sentence in reference["sentences"])
            yield Sample(
                str(reference["ref_id"]),
                picture_of(images[reference["image_id"]], gallery),
                (Turn("", said, (0,)),),
                (area_of(annotation),),
                extra={"split": reference["split"], "box": coco_box(annotation["bbox"])},
            )
