"""Published splits of CIFAR-100's classes for few-shot learning, by the names that torchvision gives the classes.

CIFAR-FS (Bertinetto et al. 2019, section 4.1) samples 64, 16 and 20 classes; FC100 (Oreshkin et al. 2018, section 4)
keeps whole superclasses together, 12, 4 and 4 of the 20. Both use all 600 images of a class, so the training and the
test images of CIFAR-100: `ConcatDataset([CIFAR100(root, train=True), CIFAR100(root, train=False)])`.
"""

from __future__ import annotations

SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
CLASSES = tuple(sorted(name for names in SUPERCLASSES.values() for name in names))  # in the order of their labels

FC100_SUPERCLASSES = {
    "validation": (
        "large_carnivores", "large_omnivores_and_herbivores", "non-insect_invertebrates", "small_mammals",
    ),
    "test": ("aquatic_mammals", "insects", "medium_mammals", "people"),
}  # fmt: skip

# Of three parts, validation and test; training has the rest.
_HELD_OUT = {
    "cifar-fs": (
        (
            "beaver", "beetle", "butterfly", "camel", "cattle", "crab", "crocodile", "flatfish", "lamp", "maple_tree",
            "motorcycle", "otter", "sea", "shark", "television", "tractor",
        ),
        (
            "baby", "bed", "bicycle", "chimpanzee", "fox", "leopard", "man", "pickup_truck", "plain", "poppy", "rocket",
            "rose", "snail", "sweet_pepper", "table", "telephone", "wardrobe", "whale", "woman", "worm",
        ),
    ),
    "fc100": tuple(
        tuple(sorted(name for group in FC100_SUPERCLASSES[part] for name in SUPERCLASSES[group]))
        for part in ("validation", "test")
    ),
}  # fmt: skip

# The names of the training, validation and test classes.
SPLITS = {
    name: (tuple(c for c in CLASSES if c not in {*validation, *test}), validation, test)
    for name, (validation, test) in _HELD_OUT.items()
}
