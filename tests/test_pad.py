"""The pad to draw on: what becomes of strokes, what the learner is given, and what is said about it."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refusal

from mamlcourse import MAML, Conv4, InputError
from mamlcourse.explorer import DrawingPad, pad
from mamlcourse.explorer.base import all_in
from mamlcourse.explorer.pad import inked

PAGE = Path(__file__).parent.parent / "book" / "playgrounds" / "draw.core.js"
CROSS = [[[40, 60], [200, 90], [230, 220]], [[60, 200], [61, 100]]]


@pytest.fixture
def learner():
    torch.manual_seed(0)
    network = Conv4(ways=3, filters=4)
    torch.nn.init.normal_(network.head.weight)
    return MAML(network, "maml", backend="loop")


@pytest.fixture
def drawing(learner, noise):
    return DrawingPad(learner, noise, ways=3)


def draw(drawing, *events):
    """What a hand does in the browser: each event is added to those before."""
    for event in events:
        before = json.loads(drawing.events.value or "[]")
        drawing.events.value = json.dumps([*before, event])


def test_a_drawing_is_centred_scaled_and_inked_whatever_its_size_and_place():
    image = inked(CROSS)
    assert image.shape == (28, 28) and image.dtype == np.float32 and image.min() == 0 and image.max() == 1
    rows, columns = (np.flatnonzero(image.max(axis) > 0.5) for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (23, 24)
    assert abs(rows.mean() - 13.5) <= 0.5 and abs(columns.mean() - 13.5) <= 0.5
    smaller = [[[x / 2 + 70, y / 2 + 3] for x, y in stroke] for stroke in CROSS]
    np.testing.assert_allclose(inked(smaller), image, atol=1e-6)
    assert 0 < inked([[[9, 9]]]).sum() < 10 and inked([]).sum() == 0  # a dot stays small


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_a_drawing_is_the_same_image_as_on_the_page():
    code = f"console.log(JSON.stringify([...require({json.dumps(str(PAGE))})().inked({CROSS})]))"
    told = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(inked(CROSS).ravel(), json.loads(told.stdout), atol=1e-5)


def test_the_drawings_are_a_task_and_the_learner_adapts_to_it(drawing, learner, noise):
    drawing.clear()
    assert "Still empty: class 1, class 2, class 3, query" in drawing.status.value and not drawing.beliefs.value
    assert "none in class 1, class 2, class 3, query" in refusal(drawing.task)
    draw(drawing, *({"box": box, "stroke": stroke} for box, stroke in ((0, CROSS[0]), (0, CROSS[1]), (3, CROSS[0]))))
    draw(drawing, {"box": 1, "stroke": [[1, 1], [9, 200]]})
    assert "Still empty: class 3." in drawing.status.value
    drawing.put(2, (5, 1))
    task = drawing.task()
    assert [tuple(part.shape) for part in task] == [(1, 3, 1, 28, 28), (1, 3), (1, 1, 1, 28, 28), (1, 1)]
    assert task.support_y.tolist() == [[0, 1, 2]]
    np.testing.assert_array_equal(task.support_x[0, 0, 0], inked(CROSS))
    np.testing.assert_array_equal(task.query_x[0, 0, 0], inked(CROSS[:1]))
    torch.testing.assert_close(task.support_x[0, 2, 0], noise.images[5, 1] / 255)
    # The query is judged in the company of the support set, as normalisation needs company.
    together = learner.trajectory(task, transductive=False).query_outputs[0, :, 0].softmax(-1)
    torch.testing.assert_close(drawing.probabilities(), together)
    assert drawing.probabilities().shape == (6, 3)
    last = together[-1].max(0)
    assert f"after 5 steps class {last.indices + 1}, {last.values:.0%}" in drawing.status.value
    assert drawing.beliefs.value.count("<tr>") == 7 and f"{together[2, 1]:.0%}</td>" in drawing.beliefs.value
    titles = [axes.get_title() for part in drawing.figure().subfigs for axes in part.axes]
    assert titles == ["class 1", "class 2", "class 3", "query", "Which class is the query?"]


def test_no_stroke_is_lost_while_the_kernel_is_busy(drawing):
    """Front ends keep the latest value alone of what they could not yet send: it holds all strokes."""
    drawing.clear()
    first, second = ({"box": 0, "stroke": stroke} for stroke in CROSS)
    drawing.events.value = json.dumps([first, second])
    assert drawing.held(0) == CROSS
    draw(drawing, {"box": 0, "stroke": [[3, 3]]})
    assert drawing.held(0) == [*CROSS, [[3, 3]]]


def test_undo_and_clear(drawing):
    example = drawing.held(0)
    draw(drawing, {"box": 0, "stroke": CROSS[0]}, {"box": 0, "stroke": CROSS[1]})
    assert drawing.held(0) == CROSS  # in place of the example's character
    buttons = {w.tooltip: w for w in all_in(drawing) if getattr(w, "description", "")}
    buttons["Undo in class 1"].click()
    assert drawing.held(0) == CROSS[:1]
    buttons["Clear class 1"].click()
    assert drawing.held(0) is None and "Still empty: class 1." in drawing.status.value
    for wanted in (CROSS[:1], example):
        drawing.undo(0)
        assert drawing.held(0) == wanted
    for _ in range(5):
        drawing.undo(0)
    assert drawing.held(0) is None


def test_characters_are_picked_without_a_mouse_and_fill_the_boxes_in_order(drawing):
    assert drawing.picks.value.count("<button") == len(drawing.sheet) == drawing.picks.value.count('aria-label="Pick ')
    buttons = {w.description: w for w in all_in(drawing) if getattr(w, "description", "")}
    buttons["Clear all"].click()
    draw(drawing, *({"pick": pick} for pick in (4, 2, 0, 2)))
    assert [drawing.held(box)[0] for box in range(4)] == [drawing.sheet[pick] for pick in (4, 2, 0, 2)]
    assert drawing.held(1) != drawing.held(3)  # the same character by another writer
    assert drawing.target.value == 3 and "after 5 steps" in drawing.status.value
    drawing.clear()
    draw(drawing, {"box": 0, "stroke": CROSS[0]}, *({"pick": pick} for pick in (1, 3, 5)))
    assert drawing.held(0) == CROSS[:1] and drawing.held(3)[0] == drawing.sheet[5]  # picks fill what was not drawn
    drawing.target.value = 1
    draw(drawing, {"pick": 7})
    assert drawing.held(1)[0] == drawing.sheet[7] and drawing.target.value == 3


def test_it_begins_with_an_example_whose_query_is_by_another_writer(drawing, noise):
    for seed in range(5):
        drawing.example(seed)
        support, query = [drawing.held(box) for box in range(3)], drawing.held(3)
        assert len({character for character, _ in support}) == 3
        assert query[0] == support[2][0] and query[1] != support[2][1]
    before = drawing.status.value
    drawing.another.click()
    assert drawing._seed == 5 and drawing.status.value != before


def test_images_and_controls_have_words(drawing):
    draw(drawing, {"box": 1, "stroke": CROSS[0]})
    drawing.put(2, None)
    said = [paper.tooltip for paper in drawing.papers]
    assert (
        said[1:3] == ["Class 2: your drawing", "Class 3: empty"] and "by writer" in said[0] and "by writer" in said[3]
    )
    # An icon alone would be spoken as the odd character that it is.
    assert all(w.tooltip for w in all_in(drawing) if getattr(w, "description", ""))
    assert all(w.description for w in all_in(drawing) if hasattr(w, "icon"))


def test_what_a_pad_refuses(learner, noise, drawing):
    assert "ways" in refusal(DrawingPad, learner, noise, ways=1)
    assert "at least 3 with two drawings each, got 2 with" in refusal(
        DrawingPad, learner, noise.select(range(2), "few"), ways=3
    )
    assert "box: expected an integer at least 0 and at most 3, got 4" in refusal(drawing.put, 4, None)


def test_errors_are_seen(drawing, monkeypatch):
    monkeypatch.setattr(pad, "inked", lambda strokes: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw(drawing, {"box": 0, "stroke": CROSS[0]})
    assert 'role="alert"' in drawing.status.value
    with pytest.raises(InputError):
        drawing.put(-1, None)
