"use strict";
const assert = require("node:assert");
const test = require("node:test");
const Bowl = require("../../book/playgrounds/bowl.js");

const TASK = { centre: [1, -1], steep: 2, flat: 0.5, degrees: 0 };
const OTHER = { centre: [-1, 2], steep: 3, flat: 0.3, degrees: 50 };
const near = (found, wanted) => found.forEach((value, i) => assert.ok(Math.abs(value - wanted[i]) < 1e-12, `${found} is not ${wanted}`));

test("a step of one over the curvature reaches the floor in that direction", () => {
  near(Bowl.path(TASK, [3, 1], 0.5, 1)[1], [1, 0.5]);
});

test("without steps, or without a rate, the gradients are the same", () => {
  for (const [lr, steps] of [[0.3, 0], [0, 3]]) {
    const { maml, fomaml, share, cosine } = Bowl.meta([TASK, OTHER], [0.4, 0.7], lr, steps);
    near(maml, fomaml);
    near(share, [0, 0]);
    near([cosine], [1]);
  }
});

test("a contour holds points of one loss", () => {
  for (const point of Bowl.contour(OTHER, 1.7)) near([Bowl.loss(OTHER, point)], [1.7]);
});

test("either outer loop rests where its own meta-gradient is zero", () => {
  for (const name of ["maml", "fomaml"]) {
    const end = Bowl.outerPath([TASK, OTHER], [0, 0], 0.1, 2, name, 0.1, 5000).at(-1);
    assert.ok(Bowl.length(Bowl.meta([TASK, OTHER], end, 0.1, 2)[name]) < 1e-3);
  }
});
