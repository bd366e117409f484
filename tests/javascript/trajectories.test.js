"use strict";
const assert = require("node:assert");
const test = require("node:test");
const Landscape = require("../../book/playgrounds/trajectories.js");

const ROWS = [[3, 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8], [9, 7, 9, 3]];

test("a finer grid goes through the values it came from, and is exact on a plane", () => {
  const fine = Landscape.finer(ROWS, 10);
  ROWS.forEach((row, i) => row.forEach((value, j) => assert.ok(Math.abs(fine[3 * i][3 * j] - value) < 1e-9)));
  const plane = Landscape.finer([[0, 1, 2], [10, 11, 12], [20, 21, 22]], 5);
  assert.ok(plane.every((row, i) => row.every((value, j) => Math.abs(value - (5 * i + 0.5 * j)) < 1e-9)));
});

test("a contour lies where the values cross the level", () => {
  const cone = Array.from({ length: 21 }, (_, i) => Array.from({ length: 21 }, (_, j) => Math.hypot(i - 10, j - 10)));
  const pieces = Landscape.contour(cone, 6);
  assert.ok(pieces.length > 30);
  for (const [x, y] of pieces.flat()) assert.ok(Math.abs(Math.hypot(x - 10, y - 10) - 6) < 0.05);
  assert.deepStrictEqual(Landscape.contour(cone, 50), []);
});
