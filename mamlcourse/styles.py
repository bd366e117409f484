"""How algorithms are written and drawn: one title, one colour and one mark for each, in the whole course."""

import zlib

TITLES = {
    "maml": "MAML", "fomaml": "FOMAML", "maml++": "MAML++", "fomaml++": "FOMAML++", "anil": "ANIL",
    "reptile": "Reptile", "meta-sgd": "Meta-SGD", "protonet": "ProtoNet", "protomaml": "ProtoMAML",
    "maml-antoniou": "MAML (Antoniou)",
}  # fmt: skip

# The colour-blind-safe palette of Okabe and Ito; where it ends, greys, a brown and a navy that differ in lightness too.
COLOURS = {
    "maml": "#0072B2", "fomaml": "#E69F00", "maml++": "#009E73", "fomaml++": "#CC79A7", "anil": "#56B4E9",
    "reptile": "#D55E00", "meta-sgd": "#4D4D4D", "protonet": "#8C8C8C", "protomaml": "#7A3E00",
    "maml-antoniou": "#002F4D",
}  # fmt: skip
MARKS = {
    "maml": "o", "fomaml": "s", "maml++": "^", "fomaml++": "v", "anil": "D", "reptile": "P", "meta-sgd": "X",
    "protonet": "*", "protomaml": "h", "maml-antoniou": "8",
}  # fmt: skip


# For names that are no recipe's, such as a reader's own learner.
OTHER_COLOURS, OTHER_MARKS = ("#999933", "#882255", "#332288", "#117733"), ("<", ">", "p", "d")


def colour_of(name: str) -> str:
    """The colour of a recipe; other names get one of a few, always the same."""
    return COLOURS.get(name) or OTHER_COLOURS[zlib.crc32(name.encode()) % len(OTHER_COLOURS)]


def mark_of(name: str) -> str:
    """The mark of a recipe; other names get one of a few, always the same."""
    return MARKS.get(name) or OTHER_MARKS[zlib.crc32(name.encode()) % len(OTHER_MARKS)]


def title_of(name: str) -> str:
    """How a recipe is written in text and figures, a variant of it too ("maml, constant"); other names as they are."""
    return ", ".join(TITLES.get(part, part) for part in name.split(", "))
