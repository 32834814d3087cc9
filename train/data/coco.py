"""COCO's own files and those made on its pictures: captions, instances, LVIS, RefCOCO."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from adapters.rle import check_polygons
from train.data.pictures import Gallery
from train.data.sample import Area, BadSampleError, Picture, Sample, Tally, Turn, stated_size
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


def area_of(annotation: Mapping[str, Any], image: Mapping[str, Any]) -> Area:
    """The segmentation of an annotation, else its box. image: the entry of its picture, which may
    state the size that it was drawn on. Raises RegionError."""
    segmentation, drawn_on = annotation.get("segmentation"), stated_size(image)
    if isinstance(segmentation, dict) and segmentation:
        return Area(rle=segmentation)
    if segmentation:
        polygons = tuple(map(tuple, check_polygons(segmentation)))
        return Area(polygons=polygons, drawn_on=drawn_on)
    return Area(box=coco_box(annotation["bbox"]), drawn_on=drawn_on)


def entries(annotations: Mapping[str, Any], name: str, tally: Tally) -> Iterator[dict[str, Any]]:
    """The objects of a list; what else is in it is counted."""
    for place, entry in enumerate(annotations[name]):
        if isinstance(entry, dict):
            yield entry
        else:
            tally.add(f'an entry of "{name}" is no object', f"number {place}")


def pictures_in(annotations: Mapping[str, Any], tally: Tally) -> dict[Any, dict[str, Any]]:
    """The entries of "images" by their id; those without one are counted."""
    found: dict[Any, dict[str, Any]] = {}
    for image in entries(annotations, "images", tally):
        with tally.row(f"image {image.get('file_name')}"):
            if image.get("id") is None:
                raise BadSampleError("a picture of the list has no id")
            if image["id"] in found:
                raise BadSampleError("a picture's id comes twice; the first is kept")
            found[image["id"]] = image
    return found


def categories_in(
    annotations: Mapping[str, Any], tally: Tally, read: Callable[[dict[str, Any]], Read]
) -> dict[Any, Read]:
    """What `read` makes of each category, by its id."""
    found: dict[Any, Read] = {}
    for category in entries(annotations, "categories", tally):
        with tally.row(f"category {category.get('id')}"):
            found[category["id"]] = read(category)
    return found


def by_picture(
    annotations: Mapping[str, Any],
    pictures: Mapping[Any, dict[str, Any]],
    tally: Tally,
    read: Callable[[dict[str, Any], dict[str, Any]], Read],
) -> dict[Any, list[Read]]:
    """What `read` makes of each annotation and its picture's entry, by the picture's id. Those that
    cannot be read, that come twice or whose picture is not listed are counted."""
    seen: set[Any] = set()
    found: dict[Any, list[Read]] = defaultdict(list)
    for annotation in entries(annotations, "annotations", tally):
        id = annotation.get("id")
        with tally.row(f"annotation {id}"):
            if id in seen:
                raise BadSampleError("an annotation's id comes twice; the first is kept")
            if annotation["image_id"] not in pictures:
                raise BadSampleError("an annotation's picture is not listed")
            image = pictures[annotation["image_id"]]
            found[annotation["image_id"]].append(read(annotation, image))
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
    pictures = pictures_in(annotations, tally)
    captions = by_picture(
        annotations, pictures, tally, lambda one, _: " ".join(one["caption"].split())
    )
    for id, image in pictures.items():
        with tally.row(f"image {id}"):
            if id in captions:  # others were not captioned
                turns = (Turn("", tuple(captions[id])),)
                yield Sample(str(id), picture_of(image, gallery), turns)


def read_instances(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """instances_*.json and LVIS' files: every thing of a picture is called by its category, and in
    LVIS by the category's synonyms. Crowds are left out."""
    annotations = read_json_file(config.inside("instances.json"))
    gallery = config.gallery("images")
    names = categories_in(annotations, tally, names_of)
    annotations["annotations"] = [
        one for one in annotations["annotations"]
        if not (isinstance(one, dict) and one.get("iscrowd"))
    ]  # fmt: skip
    pictures = pictures_in(annotations, tally)
    things = by_picture(
        annotations,
        pictures,
        tally,
        lambda one, image: (area_of(one, image), name_in(names, one["category_id"])),
    )
    for id, image in pictures.items():
        with tally.row(f"image {id}"):
            if here := things.get(id):
                turns = tuple(Turn("", name, (i,)) for i, (_, name) in enumerate(here))
                areas = tuple(area for area, _ in here)
                yield Sample(str(id), picture_of(image, gallery), turns, areas)


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
    images = pictures_in(instances, tally)
    annotations = {one.get("id"): one for one in entries(instances, "annotations", tally)}
    for reference in references:
        with tally.row(f"reference {reference.get('ref_id')}"):
            if part not in (None, reference["split"]):
                continue
            annotation = annotations[reference["ann_id"]]
            said = tuple(sentence["sent"] for sentence in reference["sentences"])
            image = images[reference["image_id"]]
            box = Area(box=coco_box(annotation["bbox"]), drawn_on=stated_size(image))
            yield Sample(
                str(reference["ref_id"]),
                picture_of(image, gallery),
                (Turn("", said, (0,)),),
                (area_of(annotation, image),),
                extra={"split": reference["split"], "box": box},
            )
