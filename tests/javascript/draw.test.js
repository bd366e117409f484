"use strict";

// "Draw your own" without a page: ink, the address, the sheet, a round.

const test = require("node:test");
const assert = require("node:assert/strict");
const core = require("../../book/playgrounds/draw.core.js")();

const CROSS = [[[40, 60], [200, 180]], [[200, 60], [40, 180]]];
const moved = (strokes, scale, x, y) => strokes.map((stroke) => stroke.map((point) => [scale * point[0] + x, scale * point[1] + y]));

// Rows and columns with ink, and how much ink there is.
function extent(image) {
  const at = [...image.keys()].filter((i) => image[i] > 0.3);
  const [xs, ys] = [at.map((i) => i % 28), at.map((i) => Math.floor(i / 28))];
  return { left: Math.min(...xs), right: Math.max(...xs), top: Math.min(...ys), bottom: Math.max(...ys) };
}

test("no strokes leave the paper white", () => {
  assert.ok(core.inked([]).every((ink) => ink === 0));
});

test("a drawing comes out the same wherever and however large it was drawn", () => {
  const wanted = core.inked(CROSS);
  for (const strokes of [moved(CROSS, 0.5, 0, 0), moved(CROSS, 0.6, 90, 70), moved(CROSS, 1, 10, 40)]) {
    core.inked(strokes).forEach((ink, i) => assert.ok(Math.abs(ink - wanted[i]) < 1e-5));
  }
});

test("ink is centred, as large as in the training images, and from 0 to 1", () => {
  for (const strokes of [CROSS, [[[0, 0], [255, 20]]], [[[100, 0], [100, 255]]]]) {
    const image = core.inked(strokes), { left, right, top, bottom } = extent(image);
    assert.ok(Math.abs(left + right - 27) <= 1 && Math.abs(top + bottom - 27) <= 1);
    assert.ok(Math.abs(Math.max(right - left, bottom - top) + 1 - core.SIZE) <= 1);
    assert.ok(Math.max(...image) > 0.7 && Math.max(...image) <= 1 && Math.min(...image) === 0);
  }
});

test("a line is as wide as a pen's, however long it was drawn on the screen", () => {
  for (const length of [60, 250]) {
    const middle = core.inked([[[128, 0], [128, length]]]).slice(14 * 28, 15 * 28);
    assert.ok(Math.abs(middle.reduce((sum, ink) => sum + ink) - 1.7) < 0.3);
  }
});

test("a dot stays a dot", () => {
  const { left, right, top, bottom } = extent(core.inked([[[30, 220]]]));
  assert.ok(right - left <= 2 && bottom - top <= 2 && left >= 12 && top >= 12);
});

test("simplifying keeps ends and corners, drops what lies on a line, and stays within the box", () => {
  const straight = Array.from({ length: 50 }, (_, i) => [4 * i, 2 * i]);
  assert.deepEqual(core.simplified(straight), [[0, 0], [196, 98]]);
  assert.deepEqual(core.simplified([[0, 0], [50, 0.2], [100, 0], [100, 100]]), [[0, 0], [100, 0], [100, 100]]);
  assert.deepEqual(core.simplified([[-3.2, 300]]), [[0, 255]]);
  // A closed line: its ends are one place.
  assert.equal(core.simplified([[10, 10], [200, 10], [200, 200], [10, 200], [10, 10]]).length, 5);
});

// Two letters of one script by three writers; pixel i of an image holds the same number as in tools/export_playground.py.
const packed = Uint8Array.from({ length: 2 * 3 * 392 }, (_, i) => i % 256);
const characters = core.sheet({ letters: [["Script", "A"], ["Script", "B"]], writers: 3, pixels: btoa(String.fromCharCode(...packed)) });

test("the sheet has two pixels in each byte, the left one in the upper half", () => {
  const image = characters.image(1, 2);
  assert.equal(image.length, 784);
  const byte = packed[5 * 392 + 7];
  assert.ok(Math.abs(image[14] - (byte >> 4) / 15) < 1e-6 && Math.abs(image[15] - (byte & 15) / 15) < 1e-6);
});

test("the address gives back what was drawn and picked", () => {
  const boxes = [{ strokes: CROSS }, { letter: 1, writer: 2 }, core.EMPTY, { strokes: [[[0, 255]]] }];
  const text = core.encoded(boxes);
  assert.match(text, /^[\w-]+$/);
  assert.deepEqual(core.decoded(text, 4, characters), boxes);
});

test("an address that is none is refused, and never half of it taken", () => {
  const boxes = [{ strokes: CROSS }, { letter: 1, writer: 2 }];
  const text = core.encoded(boxes);
  for (const wrong of ["", "x", "%%%", "äö", text.slice(0, -4), `${text}AAAA`, `B${text.slice(1)}`]) {
    assert.equal(core.decoded(wrong, 2, characters), null, wrong);
  }
  assert.equal(core.decoded(core.encoded([boxes[0], { letter: 2, writer: 0 }]), 2, characters), null); // no such letter
});

test("many and long lines still fit into an address", () => {
  const long = Array.from({ length: 700 }, (_, i) => [i % 256, (7 * i) % 256]);
  const strokes = core.storable([...Array(300).fill([[1, 2]]), long]);
  assert.ok(strokes.length < 255 && strokes.every((stroke) => stroke.length <= 255));
  assert.deepEqual(core.decoded(core.encoded([{ strokes }]), 1, characters), [{ strokes }]);
});

test("a round is the same for its seed; query and support are by different writers", () => {
  const many = { letters: Array(40).fill(["S", "x"]), writers: 4 };
  const tasks = core.tasksOf(3, 50, 5, many);
  assert.deepEqual(tasks, core.tasksOf(3, 50, 5, many));
  assert.notDeepEqual(tasks, core.tasksOf(4, 50, 5, many));
  assert.equal(new Set(tasks.map((task) => task.label)).size, 5);
  for (const { support, query, label } of tasks) {
    assert.equal(new Set(support.map((box) => box.letter)).size, 5);
    assert.equal(query.letter, support[label].letter);
    assert.notEqual(query.writer, support[label].writer);
    assert.ok([...support, query].every((box) => box.letter < 40 && box.writer < 4));
  }
});
