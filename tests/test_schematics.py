"""The schematic drawings: each has a title, its colours are those of the algorithms, and nothing leaves the picture."""

import pytest
from matplotlib.colors import to_hex

from mamlcourse import schematics
from mamlcourse.styles import COLOURS

DRAWINGS = {
    schematics.two_loops: {"maml"},
    schematics.through_the_update: {"maml"},
    schematics.first_order: {"fomaml"},
    schematics.multi_step_loss: {"maml", "maml++"},
    schematics.learned_learning_rates: {"maml", "maml++"},
}


def colours_of(axes):
    patches = [text.get_bbox_patch() for text in axes.texts if text.get_bbox_patch()]
    arrows = [text.arrow_patch for text in axes.texts if getattr(text, "arrow_patch", None)]
    return {to_hex(patch.get_edgecolor()).upper() for patch in patches + arrows}


@pytest.mark.parametrize("draw, names", DRAWINGS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_drawings_have_a_title_and_the_colours_of_their_algorithms(draw, names):
    figure = draw()
    (axes,) = figure.axes
    assert axes.get_title()
    found = colours_of(axes) & set(COLOURS.values())
    assert found == {COLOURS[name] for name in names}


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
def test_no_words_leave_the_picture(draw):
    figure = draw()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    whole = figure.bbox
    for text in axes.texts:
        place = text.get_window_extent()
        assert whole.x0 <= place.x0 and place.x1 <= whole.x1 and whole.y0 <= place.y0 and place.y1 <= whole.y1, text


def test_weights_and_steps_are_those_that_are_asked_for():
    words = [text.get_text() for text in schematics.multi_step_loss((0.5, 0.5)).axes[0].texts]
    assert sum(word.startswith("0.5 ×") for word in words) == 2
    words = [text.get_text() for text in schematics.learned_learning_rates(2, ("a", "b", "c")).axes[0].texts]
    assert sum(word.startswith("α$") for word in words) == 6
