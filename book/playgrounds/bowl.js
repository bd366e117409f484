"use strict";
// Two tasks with quadratic losses, ½ (θ - c)ᵀ A (θ - c): MAML's and FOMAML's meta-gradient and what the Hessian A has to
// do with the difference. `Bowl` computes and knows no page; below it stands the page.

const Bowl = (() => {
  // A task is {centre: [x, y], steep, flat, degrees}: A has the curvature `steep` in the direction `degrees`, `flat` across.
  function hessian({ steep, flat, degrees }) {
    const [c, s] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];
    const across = (steep - flat) * c * s;
    return [[steep * c * c + flat * s * s, across], [across, steep * s * s + flat * c * c]];
  }
  const times = (matrix, [x, y]) => matrix.map(([a, b]) => a * x + b * y);
  const minus = (a, b) => [a[0] - b[0], a[1] - b[1]];
  const length = ([x, y]) => Math.hypot(x, y);
  const mean = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];

  const gradient = (task, theta) => times(hessian(task), minus(theta, task.centre));
  function loss(task, theta) {
    const [away, slope] = [minus(theta, task.centre), gradient(task, theta)];
    return (away[0] * slope[0] + away[1] * slope[1]) / 2;
  }
  const step = (task, theta, lr) => theta.map((value, i) => value - lr * gradient(task, theta)[i]);

  // θ'_0, ..., θ'_K
  function path(task, theta, lr, steps) {
    const places = [theta];
    for (let k = 0; k < steps; k++) places.push(step(task, places[k], lr));
    return places;
  }

  // One task's {path, fomaml, maml}: FOMAML's is the gradient at θ'_K; MAML's is carried back through every step, which
  // multiplies it by I - αA.
  function adapted(task, theta, lr, steps) {
    const places = path(task, theta, lr, steps);
    const fomaml = gradient(task, places[steps]);
    let maml = fomaml;
    for (let k = 0; k < steps; k++) maml = minus(maml, times(hessian(task), maml).map((value) => lr * value));
    return { path: places, fomaml, maml };
  }

  // Both tasks: {tasks, maml, fomaml, share, cosine}, meta-gradients averaged; share = maml - fomaml.
  function meta(tasks, theta, lr, steps) {
    const each = tasks.map((task) => adapted(task, theta, lr, steps));
    const [maml, fomaml] = ["maml", "fomaml"].map((name) => mean(each[0][name], each[1][name]));
    const dot = maml[0] * fomaml[0] + maml[1] * fomaml[1];
    return { tasks: each, maml, fomaml, share: minus(maml, fomaml), cosine: dot / (length(maml) * length(fomaml)) };
  }

  // Where the outer loop goes from θ by one of the two gradients, until it rests or leaves the map.
  function outerPath(tasks, theta, lr, steps, name, outerLr = 0.1, most = 400) {
    const places = [theta];
    for (let i = 0; i < most; i++) {
      const slope = meta(tasks, places[i], lr, steps)[name];
      const next = places[i].map((value, j) => value - outerLr * slope[j]);
      if (!next.every((value) => Math.abs(value) < 20) || length(slope) < 1e-4) break;
      places.push(next);
    }
    return places;
  }

  // The points of the contour of a loss.
  function contour(task, level, points = 72) {
    const [c, s] = [Math.cos((task.degrees * Math.PI) / 180), Math.sin((task.degrees * Math.PI) / 180)];
    const [along, across] = [Math.sqrt((2 * level) / task.steep), Math.sqrt((2 * level) / task.flat)];
    return Array.from({ length: points }, (_, i) => {
      const [a, b] = [along * Math.cos((2 * Math.PI * i) / points), across * Math.sin((2 * Math.PI * i) / points)];
      return [task.centre[0] + c * a - s * b, task.centre[1] + s * a + c * b];
    });
  }

  return { hessian, gradient, loss, path, adapted, meta, outerPath, contour, length, minus };
})();

if (typeof module !== "undefined") module.exports = Bowl;

if (typeof document !== "undefined") {
  const { element, words, numberField, checkbox, shareButton, button, chart, table } = Playground;
  const byId = (id) => document.getElementById(id);
  const EDGE = 4; // of the map, in both directions
  const FLAT = 0.3; // curvature of both tasks across their steep direction

  const SPECS = {
    theta: { value: [-1.2, 2.4], min: -EDGE, max: EDGE },
    lr: { value: 0.3, min: 0, max: 2 },
    steps: { value: 2, min: 0, max: 10 },
    a: { value: [-1.5, -1.2], min: -EDGE, max: EDGE },
    b: { value: [1.8, 0.6], min: -EDGE, max: EDGE },
    steepA: { value: 1.5, min: FLAT, max: 4 },
    steepB: { value: 1.5, min: FLAT, max: 4 },
    turnA: { value: 20, min: -90, max: 90 },
    turnB: { value: 110 - 180, min: -90, max: 90 },
    outer: { value: false },
  };
  const SITUATIONS = {
    "The inner rate is 0: both arrows are the same, and nothing is adapted": "lr=0",
    "A small inner rate: FOMAML is a good guess": "lr=0.05",
    "Rate times curvature is exactly 1: one step reaches the floor of the valley, and neither gradient sees that direction": "lr=0.5&steps=1&steepA=2&steepB=2&turnA=0&turnB=0",
    "Beyond 1 a step overshoots: FOMAML points the wrong way, MAML does not": "lr=1&steps=1&steepA=1.7&steepB=1.7&turnA=0&turnB=0",
    "Five steps: the Hessian's share grows with every step": "lr=0.3&steps=5",
    "One task is steep, one is flat: the two outer loops rest at different places": "lr=0.25&steepA=3.5&steepB=0.3&steps=2&outer=1",
  };

  const state = Playground.state(SPECS, show);
  const map = chart(byId("map"), {
    title: "Contours of the losses of task A (full) and task B (dashed)",
    x: { label: "first weight, θ₁", min: -EDGE, max: EDGE },
    y: { label: "second weight, θ₂", min: -EDGE, max: EDGE },
    height: "square",
  });
  const handles = {
    a: map.handle({ label: "Bottom of task A", x: 0, y: 0, shape: "square", radius: 8, colour: "var(--quiet)", onMove: (x, y) => state.set({ a: [x, y] }) }),
    b: map.handle({ label: "Bottom of task B", x: 0, y: 0, shape: "square", radius: 8, colour: "var(--quiet)", onMove: (x, y) => state.set({ b: [x, y] }) }),
    theta: map.handle({ label: "θ, where adaptation starts", x: 0, y: 0, radius: 10, colour: "var(--text)", onMove: (x, y) => state.set({ theta: [x, y] }) }),
  };

  // A field for each number; of a place one for each coordinate.
  const field = (name, label, step, part) => {
    const { min, max } = SPECS[name];
    const onChange = (value) => state.set({ [name]: part === undefined ? value : state.values[name].map((old, i) => (i === part ? value : old)) });
    const made = numberField({ label, min, max, step, value: 0, onChange });
    return { element: made.element, show: (values) => made.show(part === undefined ? values[name] : values[name][part]) };
  };
  const outer = checkbox({ label: "Show where either outer loop goes", value: false, onChange: (on) => state.set({ outer: on }) });
  const fields = [
    field("lr", "Inner learning rate α", 0.01),
    field("steps", "Inner steps K", 1),
    field("theta", "θ₁", 0.05, 0),
    field("theta", "θ₂", 0.05, 1),
    { element: outer.element, show: (values) => outer.show(values.outer) },
    field("steepA", "Curvature of A, steep direction", 0.05),
    field("turnA", "Steep direction of A (degrees)", 1),
    field("steepB", "Curvature of B, steep direction", 0.05),
    field("turnB", "Steep direction of B (degrees)", 1),
  ];
  byId("controls").append(
    element("p", { class: "quiet" }, "Drag θ and the bottoms A and B, or move them with the arrow keys."),
    ...fields.map((made) => made.element),
    element("div", { class: "buttons" }, button("Back to the start", () => state.reset()), shareButton(state, byId("status"))),
  );
  byId("situations").append(...Playground.situations(state, SITUATIONS));

  const tasksOf = (values) => [
    { name: "A", centre: values.a, steep: values.steepA, flat: FLAT, degrees: values.turnA, dash: "" },
    { name: "B", centre: values.b, steep: values.steepB, flat: FLAT, degrees: values.turnB, dash: "6 4" },
  ];

  function show(values) {
    const { theta, lr } = values;
    const steps = Math.round(values.steps);
    const tasks = tasksOf(values);
    const found = Bowl.meta(tasks, theta, lr, steps);
    fields.forEach((made) => made.show(values));
    for (const name of ["a", "b", "theta"]) handles[name].place(...values[name]);
    // How long an arrow is for a gradient of 1: a power of two by which the longer arrow is seen and fits.
    const longest = Math.max(Bowl.length(found.maml), Bowl.length(found.fomaml), 1e-3);
    const scale = 2 ** Math.floor(Math.log2(2.6 / longest));
    const tip = (slope) => theta.map((value, i) => value - scale * slope[i]);

    map.draw((pen) => {
      for (const task of tasks) {
        for (const root of [0.5, 1, 1.5, 2, 2.5, 3, 3.5])
          pen.path([Bowl.contour(task, root * root)], { colour: "var(--quiet)", width: 1, dash: task.dash, opacity: 0.75 });
        pen.text(...task.centre, task.name, { dx: 12, dy: -8, weight: 700 });
      }
      if (values.outer)
        for (const name of ["maml", "fomaml"]) {
          const { colour, mark } = Playground.ALGORITHMS[name];
          const places = Bowl.outerPath(tasks, theta, lr, steps, name);
          pen.line(places, { colour, width: 2, dash: "4 3" });
          pen.mark(...places.at(-1), { shape: mark, size: 6, colour });
        }
      found.tasks.forEach(({ path }) => {
        path.slice(1).forEach((end, k) => pen.arrow(path[k], end, { width: 1.6 }));
        pen.mark(...path.at(-1), { size: 4 });
      });
      pen.arrow(tip(found.fomaml), tip(found.maml), { colour: "var(--bad)", width: 2.5, dash: "4 2" });
      pen.arrow(theta, tip(found.fomaml), { colour: "var(--fomaml)", width: 4 });
      pen.arrow(theta, tip(found.maml), { colour: "var(--maml)", width: 4 });
      pen.text(...tip(found.fomaml), "FOMAML", { dx: 8, dy: 14, weight: 600 });
      pen.text(...tip(found.maml), "MAML", { dx: 8, dy: -6, weight: 600 });
    });
    const turn = (Math.acos(Math.min(Math.max(found.cosine, -1), 1)) * 180) / Math.PI;
    const said = Number.isFinite(turn)
      ? `MAML's and FOMAML's arrows are ${Math.round(turn)} degrees apart; MAML's is ${words(Bowl.length(found.maml) / Bowl.length(found.fomaml), 2)} times as long.`
      : "One of the meta-gradients is zero.";
    map.describe(`θ at ${words(theta[0])}, ${words(theta[1])}. ${said}`);
    byId("status").textContent = `${said} ${aboutFactors(tasks, lr)} Arrows point downhill, ${words(scale)} long for a gradient of 1.`;

    const row = (title, slope) => [title, words(slope[0]), words(slope[1]), words(Bowl.length(slope))];
    byId("gradients").replaceChildren(
      table("Meta-gradients", ["", "for θ₁", "for θ₂", "length"], [
        row("MAML", found.maml), row("FOMAML", found.fomaml), row("Hessian's share: MAML − FOMAML", found.share),
      ]),
    );
    const factor = (curvature) => words((1 - lr * curvature) ** steps);
    byId("tasks").replaceChildren(
      table("Tasks", ["", "loss at θ", "loss after the steps", "(1 − αλ)ᴷ, steep", "(1 − αλ)ᴷ, flat"], tasks.map((task, i) => [
        `Task ${task.name}`, words(Bowl.loss(task, theta)), words(Bowl.loss(task, found.tasks[i].path.at(-1))), factor(task.steep), factor(task.flat),
      ])),
    );
  }

  // The one thing to notice about α and the curvature.
  function aboutFactors(tasks, lr) {
    const largest = Math.max(...tasks.map((task) => lr * task.steep));
    if (lr === 0) return "Without inner steps there is no Hessian in it.";
    const begin = `α times the largest curvature is ${words(largest, 2)}:`;
    if (largest > 2) return `${begin} above 2 the inner steps climb.`;
    if (largest > 1.005) return `${begin} above 1 a step overshoots the bottom. After an odd number of steps FOMAML points the wrong way there; MAML does not.`;
    if (largest > 0.995) return `${begin} one step reaches the floor of the valley.`;
    return `${begin} below 1 the Hessian shortens MAML's gradient, most in the steep direction.`;
  }

  show(state.values);
}
