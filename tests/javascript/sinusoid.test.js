"use strict";
const assert = require("node:assert");
const test = require("node:test");
const Sinusoid = require("../../book/playgrounds/sinusoid.js");
const DATA = require("../../book/playgrounds/sinusoid-data.js");

const XS = [-2, 0.5, 3];
const YS = [1, -2, 0.3];

test("the gradient is that of the loss", () => {
  const { weights } = DATA.learners.maml;
  const slopes = Sinusoid.gradient(weights, XS, YS);
  const loss = (changed) => Sinusoid.meanSquare(Sinusoid.predict(changed, XS), YS);
  const size = 1e-5;
  for (const [name, row, column] of [["features.2.weight", 3, 7], ["features.2.weight", 20, 11], ["head.weight", 0, 5]]) {
    const moved = (by) => {
      const changed = structuredClone(weights);
      changed[name][row][column] += by;
      return loss(changed);
    };
    const wanted = (moved(size) - moved(-size)) / (2 * size);
    assert.ok(Math.abs(slopes[name][row][column] - wanted) < 1e-6, name);
  }
});

test("steps beyond the learned rates take the last of them, and nothing is changed in place", () => {
  const learner = DATA.learners["maml++"];
  const before = JSON.stringify(learner);
  const path = Sinusoid.adapt(learner, XS, YS, 7, DATA.inner_lr);
  assert.strictEqual(path.length, 8);
  assert.strictEqual(JSON.stringify(learner), before);
  const bias = (weights) => weights["head.bias"][0];
  const slope = Sinusoid.gradient(path[6], XS, YS)["head.bias"][0];
  const rate = learner.learning_rates["head.bias"].at(-1);
  assert.ok(Math.abs(bias(path[7]) - (bias(path[6]) - rate * slope)) < 1e-12);
});
