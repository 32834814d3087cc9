"""Names of things: their articles and plurals, COCO's classes, and other words for them."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

# Other words for COCO's classes, each right for any thing of the class or for some of them.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": (
        "man", "woman", "boy", "girl", "child", "baby", "guy", "lady", "kid", "player", "skier",
        "surfer", "people", "human", "toddler", "rider", "snowboarder", "skateboarder",
    ),
    "bicycle": ("bike", "mountain bike", "cycle"),
    "car": ("van", "suv", "taxi", "cab", "automobile", "vehicle", "jeep", "minivan", "sports car"),
    "motorcycle": ("motorbike", "bike", "scooter", "moped", "motor scooter"),
    "airplane": ("plane", "aeroplane", "airliner", "jet", "aircraft"),
    "bus": ("school bus", "minibus", "coach", "trolleybus"),
    "train": ("locomotive", "subway", "tram", "steam locomotive", "bullet train"),
    "truck": ("pickup", "lorry", "van", "trailer truck", "fire engine", "tow truck"),
    "boat": ("ship", "canoe", "kayak", "sailboat", "speedboat", "gondola", "yawl", "ferry"),
    "traffic light": ("traffic signal", "stoplight", "light", "signal"),
    "fire hydrant": ("hydrant",),
    "stop sign": ("sign", "street sign"),
    "parking meter": ("meter",),
    "bench": ("park bench", "seat"),
    "bird": ("duck", "pigeon", "seagull", "gull", "goose", "parrot", "swan", "hen", "rooster"),
    "cat": ("kitten", "tabby", "tiger cat", "egyptian cat", "persian cat", "siamese cat"),
    "dog": ("puppy",),
    "horse": ("pony", "foal", "sorrel"),
    "sheep": ("lamb", "ram"),
    "cow": ("bull", "ox", "calf", "cattle"),
    "elephant": ("indian elephant", "african elephant", "tusker"),
    "bear": ("brown bear", "polar bear", "black bear", "american black bear", "ice bear"),
    "backpack": ("bag", "rucksack", "knapsack"),
    "umbrella": ("parasol",),
    "handbag": ("bag", "purse", "tote bag"),
    "tie": ("necktie", "bow tie"),
    "suitcase": ("luggage", "bag", "case"),
    "frisbee": ("disc", "disk"),
    "skis": ("ski",),
    "sports ball": (
        "ball", "tennis ball", "soccer ball", "baseball", "basketball", "football", "volleyball",
    ),
    "baseball bat": ("bat",),
    "baseball glove": ("glove", "mitt", "baseball mitt", "catcher's mitt"),
    "surfboard": ("board",),
    "skateboard": ("board",),
    "snowboard": ("board",),
    "tennis racket": ("racket", "racquet", "tennis racquet"),
    "bottle": ("water bottle", "wine bottle", "beer bottle", "pop bottle"),
    "wine glass": ("glass", "goblet"),
    "cup": ("mug", "glass", "coffee mug", "coffee cup", "espresso", "teacup"),
    "bowl": ("dish", "soup bowl", "mixing bowl"),
    "orange": ("mandarin", "tangerine", "satsuma"),
    "hot dog": ("hotdog", "sausage"),
    "donut": ("doughnut",),
    "sandwich": ("burger", "hamburger", "cheeseburger"),
    "chair": ("armchair", "rocking chair", "folding chair", "seat"),
    "couch": ("sofa", "studio couch"),
    "potted plant": ("plant", "houseplant", "flowerpot", "flower", "flowers"),
    "dining table": ("table", "desk"),
    "tv": ("television", "monitor", "screen", "tv monitor"),
    "laptop": ("computer", "notebook", "laptop computer"),
    "mouse": ("computer mouse",),
    "remote": ("remote control", "controller"),
    "keyboard": ("computer keyboard",),
    "cell phone": ("phone", "mobile phone", "cellphone", "smartphone", "cellular telephone"),
    "microwave": ("microwave oven",),
    "oven": ("stove",),
    "sink": ("washbasin", "basin"),
    "refrigerator": ("fridge",),
    "clock": ("wall clock", "analog clock", "watch"),
    "teddy bear": ("teddy", "stuffed animal", "stuffed bear", "toy"),
    "hair drier": ("hair dryer", "hand blower"),
    "cake": ("birthday cake",),
    "knife": ("butter knife",),
    "apple": ("granny smith",),
}  # fmt: skip

# What a person says of whom an expression means; COCO's class is what is learned.
PEOPLE = words(
    "man woman boy girl guy lady dude person kid child baby player batter catcher umpire skier "
    "surfer pitcher men women chef snowboarder skateboarder"
)
IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "knife": "knives",
    "sheep": "sheep", "skis": "skis", "scissors": "scissors", "mouse": "mice", "broccoli":
    "broccoli", "fish": "fish", "people": "people", "shelf": "shelves", "leaf": "leaves", "goose":
    "geese", "snow": "snow", "water": "water", "food": "food", "fruit": "fruit", "sand": "sand",
    "sunglasses": "sunglasses", "glasses": "glasses", "garlic": "garlic", "asparagus": "asparagus",
    "ginger": "ginger", "binoculars": "binoculars", "grass": "grass", "gravel": "gravel",
}  # fmt: skip
# Said without an article: what has no number, and pairs.
BARE = words(
    "snow water food fruit sand broccoli grass gravel garlic asparagus ginger people sunglasses "
    "glasses scissors skis binoculars jeans pants shorts shoes boots sneakers heels sandals socks "
    "tights leggings stockings gloves earrings flats pumps loafers wedges clogs panties dirt sea "
    "sky pavement paper milk juice yoghurt hay mud hair skin underwear swimwear leggings"
)


def plural(name: str) -> str:
    """ "tennis racket" -> "tennis rackets". Only the last word changes."""
    *before, last = name.split(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last = last if last in BARE else last + "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    elif last not in BARE:
        last += "s"
    return " ".join([*before, last])


def with_article(name: str) -> str:
    """ "an apple"; what has no number, and pairs: "snow", "scissors"."""
    if name.split(" ")[-1] in BARE:
        return name
    return f"{'an' if name[:1].lower() in 'aeiou' and not name.startswith('uni') else 'a'} {name}"


def right_names(category: str) -> frozenset[str]:
    """Every answer that names a thing of this COCO class."""
    return frozenset((category, plural(category), *SYNONYMS.get(category, ())))


def stuff_name(category: str) -> str:
    """COCO panoptic's "wall-other-merged" as people say it: "wall"."""
    plain = {
        "playingfield": "playing field", "sea": "sea", "water-other": "water", "food-other": "food",
        "wall-wood": "wooden wall", "wall-brick": "brick wall", "wall-stone": "stone wall",
        "wall-tile": "tiled wall", "floor-wood": "wooden floor", "window-blind": "window blind",
        "rock": "rock", "door-stuff": "door", "mirror-stuff": "mirror",
    }  # fmt: skip
    name = category.removesuffix("-merged")
    return plain.get(name, name.removesuffix("-other").removesuffix("-stuff"))
