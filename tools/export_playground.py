"""Write what the playground "Draw your own" carries: trained weights and a sheet of built-in characters, as scripts.

    python tools/export_playground.py            # write book/playgrounds/weights-draw.js, -draw-20.js and -glyphs.js
    python tools/export_playground.py --check    # say whether the committed files are those

A page that is opened from a folder may run scripts and may fetch nothing, so all are JavaScript that sets one global
variable, with numbers in base64. The weights are those that `mamlcourse.pretrained.load_pretrained` reads, float32 as
they are; the characters are of the built-in glyphs' test alphabets, which no network was trained on.
"""

import argparse
import base64
import json
import sys
from pathlib import Path

import numpy as np

from mamlcourse.data.characters import load_characters
from mamlcourse.data.packed import GREY_LEVELS
from mamlcourse.learner import MAML
from mamlcourse.pretrained import load_pretrained
from mamlcourse.records import read_json
from mamlcourse.stats import ci95

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "book" / "playgrounds"
RECORD, RECORD_OF_20 = ROOT / "results" / "playground.json", ROOT / "results" / "pretrained-glyphs-20w1s.json"
ALGORITHMS = ("maml", "fomaml", "maml++")
LETTERS, WRITERS = 15, 6  # of each test alphabet, and drawings of each letter


def weights() -> dict:
    """Every learner as book/playgrounds/engine.js takes it, and what it scored on tasks that it never saw: the number
    of tasks, and for each data set the accuracy and half its 95% confidence interval."""
    record = read_json(RECORD)

    def tested(name):
        rows = {dataset: found[name] for dataset, found in record["tested"].items()}
        scores = {dataset: [row["accuracy"], row["interval"]] for dataset, row in rows.items()}
        return {"tasks": record["test"]["tasks"]} | scores

    return {name: exported(load_pretrained(name)) | {"tested": tested(name)} for name in ALGORITHMS}


def weights_of_20() -> dict:
    """The same for 20 ways, which benchmarks/pretrain.py tested in the same way, on the built-in glyphs alone."""
    record = read_json(RECORD_OF_20)

    def tested(name):
        accuracies = record["algorithms"][name]["task_accuracies"]
        score = [round(sum(accuracies) / len(accuracies), 4), round(ci95(accuracies), 4)]
        return {"tasks": len(accuracies), "glyphs": score}

    return {name: exported(load_pretrained(name, record["setting"])) | {"tested": tested(name)} for name in ALGORITHMS}


def exported(maml: MAML) -> dict:
    """The parameters, learning rates and norms of a learner with a `Conv4`, under the engine's names."""
    meta, settings = maml.meta_params(), maml.settings
    norms = {name: values.detach().numpy() for name, values in meta.norms.items()}
    theta = {name: value.detach().numpy() for name, value in maml.model.named_parameters()}
    names = {name: engine_name(name) for name in theta}
    rates = {}
    for name in maml.adapted_names:
        learned = meta.learning_rates.get(name)
        alpha = [settings.inner_lr] * settings.inner_steps if learned is None else learned.tolist()
        rates[names[name]] = [float(f"{rate:.9g}") for rate in alpha]  # nine digits are all of a float32
    rates.pop(None, None)  # the bias of a convolution
    return {
        "steps": settings.inner_steps,
        "ways": len(theta["head.bias"]),
        "parameters": {names[name]: text_of(name, value) for name, value in theta.items() if names[name]},
        "learningRates": rates,
        "norms": [
            {names[name]: text_of(name, values[step]) for name, values in norms.items()}
            for step in range(settings.inner_steps if norms else 0)
        ],
    }


def engine_name(name: str) -> str | None:
    """The engine's name of a parameter of `Conv4`; None for the bias of a convolution, which batch norm subtracts."""
    module, _, kind = name.rpartition(".")
    if module == "head":
        return name
    block, layer = divmod(int(module.removeprefix("features.")), 4)  # convolution, batch norm, ReLU, pooling
    if layer == 0:
        return f"block{block}.weight" if kind == "weight" else None
    return f"block{block}.{ {'weight': 'gain', 'bias': 'bias'}[kind] }"


def text_of(name: str, value: np.ndarray) -> str:
    """float32 in base64; a filter's channels last, as the engine's patches have them."""
    if value.ndim == 4:  # (filters, channels, 3, 3)
        value = value.transpose(0, 2, 3, 1)
    return base64.b64encode(np.ascontiguousarray(value, dtype="<f4").tobytes()).decode()


def glyphs() -> dict:
    """The first letters of each test alphabet by the first writers: names, and pixels of four bits, two to a byte."""
    test = load_characters("glyphs").split(validation=5).test
    chosen = [
        c
        for alphabet in sorted(set(test.alphabets))
        for c in [i for i, other in enumerate(test.alphabets) if other == alphabet][:LETTERS]
    ]
    levels = test.images[chosen][:, :WRITERS].numpy() // (255 // (GREY_LEVELS - 1))
    packed = levels[..., 0::2] << 4 | levels[..., 1::2]
    return {
        "writers": WRITERS,
        "letters": [[test.alphabets[c], test.names[c].title()] for c in chosen],
        "pixels": base64.b64encode(packed.tobytes()).decode(),
    }


def script(variable: str, what: dict) -> str:
    """A script that sets a global variable."""
    return f"// Made by tools/export_playground.py.\nvar {variable} = {json.dumps(what, separators=(',', ':'))};\n"


def files() -> dict[Path, str]:
    """What each file holds."""
    return {
        FOLDER / "weights-draw.js": script("DRAW_WEIGHTS", weights()),
        FOLDER / "weights-draw-20.js": script("DRAW_WEIGHTS_20", weights_of_20()),
        FOLDER / "weights-glyphs.js": script("DRAW_GLYPHS", glyphs()),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the playground's weights and characters.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not what it would be")
    check = parser.parse_args(arguments).check
    for path, text in files().items():
        if not check:
            path.write_text(text, encoding="ascii")
            print(f"{path.name}: {len(text):,} bytes")
        elif not path.exists() or path.read_text(encoding="ascii") != text:
            print(f"{path.name} is not what its sources give: run python tools/export_playground.py.")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
