"""A pad to draw characters on, which become a task that a learner adapts to.

The pad needs ipywidgets alone. What draws in the browser are a few lines of JavaScript in event handlers of an HTML
widget; they send strokes through a hidden text field, which ipywidgets keeps equal in browser and kernel. All else
(what the boxes hold, what the network sees, the answers) is here.
"""

from __future__ import annotations

import base64
import html
import json
import random

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from ..data import Characters
from ..errors import InputError, check_number
from ..learner import MAML
from ..tasks import TaskBatch
from .base import DescribedImage, Explorer, button, careful, row, text
from .figures import SHARPNESS, encode

SIDE, GRID = 28, 255  # pixels of what a network sees; a box's coordinates go from 0 to this
# How a drawing is brought to what the networks saw in training, as on the page "Draw your own" (book/playgrounds): it
# is centred, scaled so that the longer side is SIZE pixels with ink, and inked anew with a pen of this RADIUS.
SIZE, RADIUS, SMALLEST = 23.5, 0.85, 0.2 * GRID
SHOWN = 112  # CSS pixels of a box
ON_SHEET = 20  # characters to pick from

SEND = """
const send = (event) => {  // all events so far, so that none is lost while the kernel is busy with the one before
  const field = this.closest('.mamlcourse-pad').querySelector('.mamlcourse-events textarea');
  field.value = JSON.stringify([...JSON.parse(field.value || '[]'), event]);
  field.dispatchEvent(new Event('input', { bubbles: true }));
};
"""
DRAW = f"""
if (!event.isPrimary || event.button !== 0) return;
event.preventDefault();
{SEND}
const frame = this.getBoundingClientRect(), stroke = [];
const line = this.appendChild(document.createElementNS(this.namespaceURI, 'polyline'));
const scaled = (part) => Math.round({GRID} * Math.min(Math.max(part, 0), 1));
const add = (at) => {{
  stroke.push([scaled((at.clientX - frame.left) / frame.width), scaled((at.clientY - frame.top) / frame.height)]);
  line.setAttribute('points', [...stroke, stroke.at(-1)].join(' '));  // twice, so that a dot is seen
}};
add(event);
this.setPointerCapture(event.pointerId);
this.onpointermove = (move) => (move.getCoalescedEvents?.() ?? [move]).forEach(add);
this.onpointerup = this.onpointercancel = () => {{
  this.onpointermove = this.onpointerup = this.onpointercancel = null;
  const picture = this.closest('.mamlcourse-paper').querySelector('img');
  picture.addEventListener('load', () => line.remove(), {{ once: true }});  // when the picture has the stroke in it
  send({{ box: Number(this.dataset.box), stroke }});
}};
"""
STYLE = f"""<style>
.mamlcourse-paper {{ position: relative; border: 1px solid #767676; width: {SHOWN}px; height: {SHOWN}px; }}
.mamlcourse-surface {{ position: absolute; inset: 0; margin: 0; height: auto; }}
.mamlcourse-surface svg {{
  width: {SHOWN}px; height: {SHOWN}px; display: block; cursor: crosshair; touch-action: none;
}}
.mamlcourse-surface polyline {{
  fill: none; stroke: #0072B2; stroke-width: 12; stroke-linecap: round; stroke-linejoin: round;
}}
.mamlcourse-sheet button {{ padding: 1px; margin: 1px; border: 1px solid #767676; background: white; line-height: 0; }}
.mamlcourse-sheet button:focus-visible {{ outline: 3px solid #0072B2; }}
.mamlcourse-beliefs th, .mamlcourse-beliefs td {{ padding: 0 10px; text-align: right; font-weight: normal; }}
.mamlcourse-beliefs .most {{ font-weight: bold; text-decoration: underline; }}
</style>"""


def inked(strokes) -> np.ndarray:
    """The image of a drawing as a network sees it: (28, 28), float32 from 0, paper, to 1, ink.

    Args:
        strokes: lists of points (x, y), each from 0 to 255; of any size, anywhere in the box.
    """
    image = np.zeros((SIDE, SIDE), dtype=np.float32)
    points = np.array([point for stroke in strokes for point in stroke], dtype=float)
    if not len(points):
        return image
    low, high = points.min(0), points.max(0)
    scale = (SIZE - 2 * RADIUS) / max(*(high - low), SMALLEST)
    pixels = np.stack(np.meshgrid(range(SIDE), range(SIDE)), -1) + 0.5  # (28, 28, 2), the middle of each as x, y
    for stroke in strokes:
        path = SIDE / 2 + (np.array(stroke, dtype=float) - (low + high) / 2) * scale
        for a, b in zip(np.vstack([path[:1], path]), path):
            along = ((pixels - a) @ (b - a)) / (np.square(b - a).sum() or 1)
            nearest = a + along.clip(0, 1)[..., None] * (b - a)
            away = np.linalg.norm(pixels - nearest, axis=-1)
            image = np.maximum(image, (RADIUS + 0.5 - away).clip(0, 1))
    return image.astype(np.float32)


class DrawingPad(Explorer):
    """Draw one character for each class, and a query; the learner adapts to them as soon as no box is empty.

    Mouse, pen or finger draw; with the keyboard, characters are picked from a sheet. The pad begins with an example.

    Args:
        learner: what adapts; of as many classes as `ways`.
        characters: those of the sheet and of the examples.
        ways: classes.

    Raises:
        InputError: a number is not allowed, or there are fewer characters than ways or fewer than two drawings of each.
    """

    def __init__(self, learner: MAML, characters: Characters, ways: int = 5):
        check_number("ways", ways, at_least=2, at_most=10, integer=True)
        if len(characters) < ways or characters.images.shape[1] < 2:
            raise InputError(
                f"characters: expected at least {ways} with two drawings each, got {len(characters)} with "
                f"{characters.images.shape[1]}."
            )
        super().__init__()
        self.learner, self.characters, self.ways = learner, characters, ways
        self.names = [*(f"class {number + 1}" for number in range(ways)), "query"]
        # What a box holds is None, a list of strokes, or (class, writer) of the characters; its past stands before it.
        self._boxes = [[None] for _ in self.names]
        self._heard, self._seed, self._picked = 0, 0, 0
        places = np.linspace(0, len(characters) - 1, min(ON_SHEET, len(characters))).astype(int)
        self.sheet = [int(place) for place in places]  # the classes to pick from
        self._make_controls()
        self.example()

    def _make_controls(self):
        self.events = widgets.Textarea(tooltip="What was drawn", layout={"display": "none"})
        self.events.add_class("mamlcourse-events")
        self.events.observe(self._hear, "value")
        self.papers = [DescribedImage(margin="0") for _ in self.names]
        boxes, half = [], {"width": "52px", "padding": "0"}
        for number, (name, paper) in enumerate(zip(self.names, self.papers)):
            surface = text(
                f'<svg aria-hidden="true" data-box="{number}" viewBox="0 0 {GRID} {GRID}" '
                f'onpointerdown="{html.escape(DRAW)}"></svg>'
            )
            surface.add_class("mamlcourse-surface")
            box = widgets.Box([paper, surface], layout={"overflow": "hidden"})
            box.add_class("mamlcourse-paper")
            undo = widgets.Button(description="Undo", tooltip=f"Undo in {name}", layout=half)
            clear = widgets.Button(description="Clear", tooltip=f"Clear {name}", layout=half)
            undo.on_click(lambda _, number=number: self.undo(number))
            clear.on_click(lambda _, number=number: self.put(number, None))
            title = text(f"<b>{name.capitalize()}</b>")
            boxes.append(widgets.VBox([title, box, widgets.HBox([undo, clear])], layout={"margin": "0 4px"}))
        self.clear_all = button("Clear all", "Empty all boxes", icon="trash")
        self.clear_all.on_click(lambda _: self.clear())
        self.another = button("Another example", "Fill the boxes with letters by several writers")
        self.another.on_click(lambda _: self.example(self._seed + 1))
        self.target = widgets.Dropdown(
            options=[(name.capitalize(), number) for number, name in enumerate(self.names)], value=len(self.names) - 1,
            description="Picked characters go to", tooltip="The box that a picked character goes to",
            style={"description_width": "initial"}, layout={"width": "auto"},
        )  # fmt: skip
        self.picks = text("".join(map(self._pick_button, range(len(self.sheet)))))
        self.picks.add_class("mamlcourse-sheet")
        self.beliefs = text()
        self.add_class("mamlcourse-pad")
        self.children = [
            text(STYLE), self.events, row(*boxes), row(self.clear_all, self.another, self.target), self.picks,
            self.status, self.beliefs,
        ]  # fmt: skip

    def _pick_button(self, place: int) -> str:
        name = self._name_of(self.sheet[place])
        source = base64.b64encode(_png(self._image((self.sheet[place], 0)), 1)).decode()
        pick = html.escape(f"{SEND} send({{ pick: {place} }});")
        return (
            f'<button type="button" aria-label="Pick {html.escape(name)}" title="{html.escape(name)}" onclick="{pick}">'
            f'<img alt="" width="{SIDE}" height="{SIDE}" src="data:image/png;base64,{source}"></button>'
        )

    def _name_of(self, character: int) -> str:
        script, name = self.characters.alphabets[character], self.characters.names[character].lower()
        return name if script.lower() in name else f"{script}: {name}"

    # What the boxes hold.

    def held(self, box: int):
        """What a box holds: None, a list of strokes, or (class, writer) of the characters."""
        return self._boxes[box][-1]

    def put(self, box: int, content) -> None:
        """Let a box (the number of a class, or `ways` for the query) hold something: see `held`."""
        check_number("box", box, at_least=0, at_most=self.ways, integer=True)
        if content != self.held(box):
            self._boxes[box].append(content)
            self._update()

    def undo(self, box: int) -> None:
        """Let a box hold what it held before."""
        if len(self._boxes[box]) > 1:
            self._boxes[box].pop()
            self._update()

    def clear(self) -> None:
        """Empty all boxes."""
        for past in self._boxes:
            past.append(None)
        self.target.value = 0
        self._update()

    def example(self, seed: int = 0) -> None:
        """Fill the boxes with characters by several writers: the query is one of class 3 (or the last, if fewer)."""
        self._seed, chance = seed, random.Random(seed)
        writers = self.characters.images.shape[1]
        classes = chance.sample(range(len(self.characters)), self.ways)
        support = [(character, chance.randrange(writers)) for character in classes]
        character, writer = support[min(2, self.ways - 1)]
        query = (character, (writer + chance.randrange(1, writers)) % writers)
        for past, content in zip(self._boxes, [*support, query]):
            past.append(content)
        self.target.value = self.ways
        self._update()

    @careful
    def _hear(self):
        """Do what came from the browser since the last time."""
        events = json.loads(self.events.value or "[]")
        for event in events[self._heard :]:
            if "stroke" in event:
                box = event["box"]
                before = self.held(box) if isinstance(self.held(box), list) else []
                self._boxes[box].append([*before, event["stroke"]])  # a drawing takes the place of a picked character
                self._aim()
            else:
                self._pick(self.sheet[event["pick"]])
        self._heard = len(events)
        self._update()

    def _pick(self, character: int) -> None:
        """A picked character goes to the box that is meant, each time by another writer."""
        self._boxes[self.target.value].append((character, self._picked % self.characters.images.shape[1]))
        self._picked += 1
        self._aim()

    def _aim(self) -> None:
        """If the box that picks go to has been filled, mean the first empty one, or else the query."""
        if self.held(self.target.value):
            empty = [box for box in range(len(self.names)) if not self.held(box)]
            self.target.value = empty[0] if empty else self.ways

    # What the learner makes of it.

    def _image(self, content) -> np.ndarray:
        """(28, 28), from 0, paper, to 1, ink."""
        if isinstance(content, tuple):
            return self.characters.images[content].numpy().astype(np.float32) / 255
        return inked(content or [])

    def task(self) -> TaskBatch:
        """The drawings as a batch of one task: support (1, ways, 1, 28, 28), query (1, 1, 1, 28, 28).

        Which class the query is, nobody has said: its label is 0 and says nothing.

        Raises:
            InputError: a box is empty.
        """
        if empty := [name for box, name in enumerate(self.names) if not self.held(box)]:
            raise InputError(f"The boxes: expected a character in each, got none in {', '.join(empty)}.")
        images = torch.from_numpy(np.stack([self._image(self.held(box)) for box in range(len(self.names))]))
        images = images[None, :, None].to(next(self.learner.parameters()).device)
        labels = torch.arange(self.ways, device=images.device)[None]
        return TaskBatch(images[:, :-1], labels, images[:, -1:], torch.zeros_like(labels[:, :1]))

    def probabilities(self) -> torch.Tensor:
        """(K + 1, ways): how probable the learner finds each class for the query, after 0 to K adaptation steps.

        The query goes through the network together with the support set, as normalisation by a single image is poor.

        Raises:
            InputError: a box is empty.
        """
        return self.learner.trajectory(self.task(), transductive=False).query_outputs[0, :, 0].softmax(-1).cpu()

    def in_words(self) -> str:
        """What the learner says before and after adapting."""
        first, last = (row.max(0) for row in self.probabilities()[[0, -1]])
        steps = self.learner.settings.inner_steps
        return (
            f"The query: before any step class {first.indices + 1}, {first.values:.0%}; "
            f"after {steps} steps class {last.indices + 1}, {last.values:.0%}."
        )

    @careful
    def _update(self):
        for box, (name, paper) in enumerate(zip(self.names, self.papers)):
            content = self.held(box)
            what = "empty" if not content else "your drawing" if isinstance(content, list) else "a picked character"
            if isinstance(content, tuple):
                what = f"{self._name_of(content[0])}, by writer {content[1] + 1}"
            png = _png(self._image(content), SHOWN * SHARPNESS // SIDE)
            if (png, alt := f"{name.capitalize()}: {what}") != (paper.value, paper.tooltip):
                paper.show(png, alt)
        if empty := [name for box, name in enumerate(self.names) if not self.held(box)]:
            self.beliefs.value = ""
            self.say(f"Still empty: {', '.join(empty)}.")
            return
        rows = self.probabilities().tolist()
        head = "".join(f'<th scope="col">{name}</th>' for name in self.names[:-1])
        body = "".join(
            f'<tr><th scope="row">{step}</th>'
            + "".join(f'<td class="{"most" * (share == max(shares))}">{share:.0%}</td>' for share in shares)
            + "</tr>"
            for step, shares in enumerate(rows)
        )
        self.beliefs.value = (
            '<table class="mamlcourse-beliefs"><caption>How probable each class is for the query</caption>'
            f'<thead><tr><th scope="col">after steps</th>{head}</tr></thead><tbody>{body}</tbody></table>'
        )
        self.say(self.in_words())

    def figure(self) -> Figure:
        """The boxes, and by adaptation step how probable the learner finds each class for the query.

        Raises:
            InputError: a box is empty.
        """
        shares = self.probabilities().numpy()
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        upper, lower = figure.subfigures(2, 1, height_ratios=(1, 2))
        for box, axes in enumerate(upper.subplots(1, len(self.names))):
            axes.imshow(1 - self._image(self.held(box)), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.set_title(self.names[box], fontsize=9)
        axes = lower.subplots()
        for number, (values, mark) in enumerate(zip(shares.T, "osD^vPX*<>")):
            colour = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#4D4D4D")[number % 5]
            axes.plot(100 * values, marker=mark, color=colour, label=self.names[number])
        axes.set(xlabel="adaptation steps", ylabel="probability (%)", ylim=(-3, 103), xticks=range(len(shares)))
        axes.set_title("Which class is the query?", fontsize=10)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        return figure


def _png(image: np.ndarray, zoom: int) -> bytes:
    """A (28, 28) image, ink on white, as PNG of `zoom` pixels for one."""
    paper = Image.fromarray(np.rint(255 * (1 - image)).astype(np.uint8))
    return encode(paper.resize((zoom * paper.width, zoom * paper.height), Image.Resampling.NEAREST))
