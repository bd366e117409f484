"use strict";
// A network 1-40-40-1 with ReLU that adapts to a few points of a wave. `Sinusoid` computes, in the order of the paper,
// and knows no page; below it stands the page. Its numbers are PyTorch's (tests/test_playgrounds.py).

const Sinusoid = (() => {
  const LAYERS = [["features.0.weight", "features.0.bias"], ["features.2.weight", "features.2.bias"], ["head.weight", "head.bias"]];
  const NAMES = LAYERS.flat();

  // The inputs of every layer and the outputs for one number x.
  function forward(weights, x) {
    const inputs = [[x]];
    LAYERS.forEach(([weight, bias], layer) => {
      const last = layer === LAYERS.length - 1;
      const outputs = weights[weight].map((row, i) => {
        let sum = weights[bias][i];
        for (let j = 0; j < row.length; j++) sum += row[j] * inputs[layer][j];
        return last ? sum : Math.max(sum, 0);
      });
      inputs.push(outputs);
    });
    return inputs;
  }
  const predict = (weights, xs) => xs.map((x) => forward(weights, x).at(-1)[0]);

  const meanSquare = (outputs, targets) => outputs.reduce((sum, output, i) => sum + (output - targets[i]) ** 2, 0) / outputs.length;

  // The gradient of the mean squared error over the points, in the shape of the weights.
  function gradient(weights, xs, ys) {
    const zeros = (value) => (Array.isArray(value) ? value.map(zeros) : 0);
    const slopes = Object.fromEntries(NAMES.map((name) => [name, zeros(weights[name])]));
    xs.forEach((x, n) => {
      const inputs = forward(weights, x);
      let behind = [(2 * (inputs.at(-1)[0] - ys[n])) / xs.length]; // of the loss, for the outputs of the layer
      for (let layer = LAYERS.length - 1; layer >= 0; layer--) {
        const [weight, bias] = LAYERS[layer];
        const before = inputs[layer].map(() => 0);
        behind.forEach((slope, i) => {
          if (slope === 0) return;
          slopes[bias][i] += slope;
          inputs[layer].forEach((input, j) => {
            slopes[weight][i][j] += slope * input;
            before[j] += slope * weights[weight][i][j];
          });
        });
        behind = before.map((slope, j) => (inputs[layer][j] > 0 ? slope : 0)); // ReLU
      }
    });
    return slopes;
  }

  // θ'_0, ..., θ'_K. learningRates: {name: [one for each step]}; steps beyond the last use the last's; {} means innerLr.
  function adapt({ weights, learning_rates: learningRates }, xs, ys, steps, innerLr) {
    const path = [weights];
    for (let k = 0; k < steps; k++) {
      const slopes = gradient(path[k], xs, ys);
      const next = {};
      for (const name of NAMES) {
        const rates = learningRates[name];
        const rate = rates ? rates[Math.min(k, rates.length - 1)] : innerLr;
        const move = (value, slope) => (Array.isArray(value) ? value.map((part, i) => move(part, slope[i])) : value - rate * slope);
        next[name] = move(path[k][name], slopes[name]);
      }
      path.push(next);
    }
    return path;
  }

  return { forward, predict, meanSquare, gradient, adapt };
})();

if (typeof module !== "undefined") module.exports = Sinusoid;

if (typeof document !== "undefined") {
  const { element, words, numberField, algorithmBoxes, shareButton, button, chart, table, ALGORITHMS } = Playground;
  const byId = (id) => document.getElementById(id);
  const MOST_STEPS = 10;
  const MOST_POINTS = 10;
  const [LEFT, RIGHT, TOP] = [-5, 5, 6];
  Object.assign(ALGORITHMS, {
    joint: { title: "Mean wave: trained on all waves at once", colour: "var(--quiet)", mark: "cross", dash: "10 3 2 3" },
    untrained: { title: "Untrained network", colour: "var(--control)", mark: "circle", dash: "1 3" },
  });
  const NAMES = Object.keys(SINUSOID_DATA.learners);

  const wave = (values, x) => values.a * Math.sin(x - values.phase);
  const spread = (count) => Array.from({ length: count }, (_, i) => (count === 1 ? 0 : -4.5 + (9 * i) / (count - 1)));
  const onWave = (values, xs) => xs.flatMap((x) => [x, wave(values, x)].map((part) => Number(part.toFixed(3))));
  const START = { a: 3, phase: 1 };
  const SPECS = {
    a: { value: START.a, min: 0.1, max: 5 },
    phase: { value: START.phase, min: 0, max: 3.1416 },
    step: { value: 5, min: 0, max: MOST_STEPS },
    points: { value: onWave(START, spread(5)), min: -TOP, max: TOP, most: 2 * MOST_POINTS }, // x, y, x, y, ...
    ...Object.fromEntries(NAMES.map((name) => [name, { value: name in { maml: 1, fomaml: 1, "maml++": 1 } }])),
  };
  const SITUATIONS = {
    "Before any step: what each initialisation expects": "step=0&joint=1",
    "One step": "step=1",
    "Only the mean wave and an untrained network: gradient steps alone do not do it": "maml=0&fomaml=0&maml%2B%2B=0&joint=1&untrained=1",
    "Points on the right half alone: what is said of the left?": `points=${onWave(START, [0.5, 1.5, 2.5, 3.5, 4.5])}`,
    "A single point": `points=${onWave(START, [2.5])}`,
    "Points that lie on no wave": "points=-4,4,-2,4,0,4,2,4,4,4",
    "Twice as many steps as were trained": "step=10",
  };
  const pairs = (points) => Array.from({ length: Math.floor(points.length / 2) }, (_, i) => [points[2 * i], points[2 * i + 1]]);

  const state = Playground.state(SPECS, show);
  const grid = Array.from({ length: 161 }, (_, i) => LEFT + ((RIGHT - LEFT) * i) / 160);
  const curves = chart(byId("curves"), {
    title: "The wave, its points and the curves after the steps", height: 380,
    x: { label: "x", min: LEFT, max: RIGHT }, y: { label: "y", min: -TOP, max: TOP },
  });
  const progress = chart(byId("progress"), {
    title: "Distance from the wave by step", height: 260,
    x: { label: "inner steps", min: 0, max: MOST_STEPS, ticks: [0, 2, 4, 5, 6, 8, 10] },
    y: { label: "mean squared error", min: 0.01, max: 10, scale: "log" },
  });

  let handles = [];
  function showHandles(points) {
    while (handles.length > points.length) handles.pop().remove();
    points.forEach(([x, y], i) => {
      handles[i] ??= curves.handle({
        label: `Support point ${i + 1}`, x, y, radius: 7, colour: "var(--text)",
        onMove: (nx, ny) => state.set({ points: state.values.points.map((old, at) => (at === 2 * i ? nx : at === 2 * i + 1 ? ny : old)) }),
      });
      handles[i].place(x, y);
    });
  }

  // A wave's points move with it; each keeps its x.
  const setWave = (changes) => {
    const values = { ...state.values, ...changes };
    state.set({ ...changes, points: onWave(values, pairs(values.points).map(([x]) => x)) });
  };
  const setCount = (count) => state.set({ points: onWave(state.values, spread(Math.round(count))) });
  const fields = {
    step: numberField({ label: "Inner steps taken", min: 0, max: MOST_STEPS, step: 1, value: 0, onChange: (step) => state.set({ step }) }),
    a: numberField({ label: "Amplitude of the wave", min: 0.1, max: 5, step: 0.1, value: 1, onChange: (a) => setWave({ a }) }),
    phase: numberField({ label: "Phase of the wave (radians)", min: 0, max: 3.14, step: 0.02, value: 0, onChange: (phase) => setWave({ phase }) }),
    count: numberField({ label: "Support points", min: 1, max: MOST_POINTS, step: 1, value: 1, onChange: setCount }),
  };
  const boxes = algorithmBoxes({ names: NAMES, values: state.values, onChange: (name, on) => state.set({ [name]: on }) });
  const random = (low, high) => Number((low + (high - low) * Math.random()).toFixed(2));
  const play = button("Play the steps", () => (playing ? stop() : start()), { class: "first" });
  let playing = null;
  function start() {
    state.set({ step: 0 });
    play.textContent = "Stop";
    playing = setInterval(() => {
      state.set({ step: Math.min(state.values.step + 1, MOST_STEPS) });
      if (state.values.step === MOST_STEPS) stop();
    }, 700);
  }
  function stop() {
    clearInterval(playing);
    playing = null;
    play.textContent = "Play the steps";
  }
  byId("controls").append(
    element("p", { class: "quiet" }, "Drag the black points, or move them with the arrow keys."),
    fields.step.element,
    element("div", { class: "buttons" },
      button("One step", () => state.set({ step: Math.min(Math.round(state.values.step) + 1, MOST_STEPS) })), play),
    boxes.element, fields.a.element, fields.phase.element, fields.count.element,
    element("div", { class: "buttons" },
      button("Another wave", () => setWave({ a: random(0.5, 5), phase: random(0, 3.14) })),
      button("Points back on the wave", () => setCount(pairs(state.values.points).length)),
      button("Back to the start", () => state.reset()),
      shareButton(state, byId("status"))),
  );
  byId("situations").append(...Playground.situations(state, SITUATIONS));

  // What each learner does with the points depends on them alone; stepping through it computes nothing anew.
  const known = new Map();
  function runs(name, points) {
    const key = JSON.stringify(points);
    if (known.get(name)?.key !== key) {
      const path = Sinusoid.adapt(SINUSOID_DATA.learners[name], points.map(([x]) => x), points.map(([, y]) => y), MOST_STEPS, SINUSOID_DATA.inner_lr);
      known.set(name, { key, path, curves: path.map((weights) => Sinusoid.predict(weights, grid)) });
    }
    return known.get(name);
  }

  function show(values) {
    const step = Math.round(values.step);
    const points = pairs(values.points);
    const truth = grid.map((x) => wave(values, x));
    const shown = NAMES.filter((name) => values[name]).map((name) => {
      const run = runs(name, points);
      const fits = run.path.map((weights) => Sinusoid.meanSquare(Sinusoid.predict(weights, points.map(([x]) => x)), points.map(([, y]) => y)));
      return { name, ...ALGORITHMS[name], run, fits, errors: run.curves.map((curve) => Sinusoid.meanSquare(curve, truth)) };
    });
    fields.step.show(step);
    fields.a.show(values.a);
    fields.phase.show(values.phase);
    fields.count.show(points.length);
    boxes.show(values);
    showHandles(points);

    curves.draw((pen) => {
      pen.line(grid.map((x, i) => [x, truth[i]]), { colour: "var(--control)", width: 7, opacity: 0.45 });
      shown.forEach(({ run, colour, dash, mark }, place) => {
        if (step) pen.line(grid.map((x, i) => [x, run.curves[0][i]]), { colour, width: 1, opacity: 0.7 });
        pen.line(grid.map((x, i) => [x, run.curves[step][i]]), { colour, dash });
        for (let i = 8 + 6 * place; i < grid.length; i += 40) pen.mark(grid[i], run.curves[step][i], { shape: mark, colour, size: 4 });
      });
    });
    const errors = shown.flatMap((one) => one.errors).filter(Number.isFinite);
    progress.axes({ y: { min: 10 ** Math.floor(Math.log10(Math.max(Math.min(...errors, 1), 1e-3))), max: 10 ** Math.ceil(Math.log10(Math.max(...errors, 1) * 1.01)) } });
    progress.draw((pen) => {
      pen.upright(step, { colour: "var(--text)", width: 1.5, dash: "3 3" });
      for (const { errors, colour, dash, mark } of shown) {
        pen.line(errors.map((error, k) => [k, error]), { colour, dash });
        errors.forEach((error, k) => pen.mark(k, error, { shape: mark, colour, size: k === step ? 6 : 4 }));
      }
    });
    const said = shown.length
      ? `After ${step} ${step === 1 ? "step" : "steps"} the mean squared error is ${shown.map(({ title, errors }) => `${words(errors[step], 2)} for ${title.split(":")[0]}`).join(", ")}.`
      : "Choose at least one initialisation.";
    byId("status").textContent = said;
    curves.describe(said);
    progress.describe(said);
    byId("numbers").replaceChildren(
      table("Mean squared errors", ["", "at its points", "from the wave", "before any step"],
        shown.map(({ title, fits, errors }) => [title.split(":")[0], words(fits[step]), words(errors[step]), words(errors[0])])),
    );
  }

  show(state.values);
}
