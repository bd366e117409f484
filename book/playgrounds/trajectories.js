"use strict";
// Lesson 10's explorer from records: what three learners do with a task, step by step. `Landscape` computes contours and
// knows no page; below it stands the page.

const Landscape = (() => {
  // A finer grid of size x size between the given values (rows of a square grid), by Catmull-Rom splines both ways.
  function finer(rows, size) {
    const spline = (values, at) => {
      const i = Math.min(Math.floor(at), values.length - 2);
      const t = at - i;
      const [b, c] = [values[i], values[i + 1]];
      const a = values[i - 1] ?? 2 * b - c;
      const d = values[i + 2] ?? 2 * c - b;
      return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
    };
    const places = Array.from({ length: size }, (_, i) => (i * (rows.length - 1)) / (size - 1));
    const wide = rows.map((row) => places.map((at) => spline(row, at)));
    return places.map((at) => wide[0].map((_, column) => spline(wide.map((row) => row[column]), at)));
  }

  // Where the values of a grid cross a level: pieces of lines [[column, row], [column, row]], by marching squares.
  function contour(rows, level) {
    const pieces = [];
    for (let row = 0; row < rows.length - 1; row++)
      for (let column = 0; column < rows[0].length - 1; column++) {
        const corners = [[column, row], [column + 1, row], [column + 1, row + 1], [column, row + 1]];
        const ends = [];
        corners.forEach((from, i) => {
          const to = corners[(i + 1) % 4];
          const [a, b] = [rows[from[1]][from[0]], rows[to[1]][to[0]]];
          if (a < level === b < level) return;
          const t = (level - a) / (b - a);
          ends.push([from[0] + t * (to[0] - from[0]), from[1] + t * (to[1] - from[1])]);
        });
        for (let i = 0; i + 1 < ends.length; i += 2) pieces.push([ends[i], ends[i + 1]]);
      }
    return pieces;
  }

  return { finer, contour };
})();

if (typeof module !== "undefined") module.exports = Landscape;

if (typeof document !== "undefined") {
  const { element, svg, words, numberField, chooser, checkbox, algorithmBoxes, shareButton, button, chart, ALGORITHMS } = Playground;
  const byId = (id) => document.getElementById(id);
  const { tasks, crowd, failures } = TRAJECTORIES_DATA;
  const NAMES = Object.keys(crowd);
  const STEPS = tasks[0].learners[NAMES[0]].query_loss.length - 1;
  const QUERIES = tasks[0].query_labels.length;
  const LETTERS = "ABCDE";
  const FINE = 33; // points of the maps, along each side
  const FAILURES = { worst: "lowest accuracy", disputed: "most disputed", overshooting: "highest climb of a loss" };

  const SPECS = {
    task: { value: "0", allowed: Object.keys(tasks) },
    step: { value: 1, min: 0, max: STEPS },
    others: { value: true },
    ...Object.fromEntries(NAMES.map((name) => [name, { value: true }])),
  };
  const state = Playground.state(SPECS, show);
  const atSteps = { label: "inner steps", min: -0.15, max: STEPS + 0.15, ticks: Array.from({ length: STEPS + 1 }, (_, k) => k) };
  const loss = chart(byId("loss"), { title: "Query loss by step", x: atSteps, y: { label: "loss", min: 0.1, max: 10, scale: "log" }, height: 280 });
  const accuracy = chart(byId("accuracy"), { title: "Query accuracy by step", x: atSteps, y: { label: "accuracy (%)", min: 0, max: 102, ticks: [0, 20, 40, 60, 80, 100] }, height: 280 });

  const titleOf = (number) => {
    const why = Object.keys(FAILURES).filter((failure) => String(failures[failure]) === number);
    return [`Task ${number}`, ...why.map((failure) => FAILURES[failure])].join(", ");
  };
  const step = numberField({ label: "Inner steps taken", min: 0, max: STEPS, step: 1, value: 0, onChange: (to) => state.set({ step: to }) });
  const task = chooser({ label: "Task", choices: Object.fromEntries(Object.keys(tasks).map((number) => [number, titleOf(number)])), value: "0", onChange: (to) => state.set({ task: to }) });
  const others = checkbox({ label: "100 other tasks behind, their means thin", value: true, onChange: (on) => state.set({ others: on }) });
  const boxes = algorithmBoxes({ names: NAMES, values: state.values, onChange: (name, on) => state.set({ [name]: on }) });
  const play = button("Play the steps", () => (playing ? stop() : start()), { class: "first" });
  let playing = null;
  function start() {
    state.set({ step: 0 });
    play.textContent = "Stop";
    playing = setInterval(() => {
      state.set({ step: Math.min(state.values.step + 1, STEPS) });
      if (state.values.step === STEPS) stop();
    }, 900);
  }
  function stop() {
    clearInterval(playing);
    playing = null;
    play.textContent = "Play the steps";
  }
  const jump = (failure, label) => button(label, () => state.set({ task: String(failures[failure]), step: STEPS }));
  byId("controls").append(
    step.element, element("div", { class: "buttons" }, play), task.element,
    element("div", { class: "buttons" },
      jump("worst", "Worst task"), jump("disputed", "Most disputed task"), jump("overshooting", "Worst overshoot")),
    boxes.element, others.element,
    element("div", { class: "buttons" }, button("Back to the start", () => state.reset()), shareButton(state, byId("status"))),
  );

  // The maps are made once for each task and choice of learners; a step only moves a mark.
  const maps = { key: "", charts: [] };
  function makeMaps(number, names) {
    if (maps.key === `${number} ${names}`) return;
    maps.key = `${number} ${names}`;
    byId("maps").replaceChildren();
    const fine = names.map((name) => Landscape.finer(tasks[number].learners[name].slice.loss.map((row) => row.map(Math.log)), FINE));
    const all = fine.flat(2);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    maps.charts = names.map((name, place) => {
      const { x, y, seen, path } = tasks[number].learners[name].slice;
      const plane = chart(byId("maps"), {
        title: ALGORITHMS[name].title, height: "square",
        x: { label: "distance along", min: x[0], max: x.at(-1) }, y: { label: "distance across", min: y[0], max: y.at(-1) },
      });
      plane.describe(`the path has ${path.length - 1} steps; ${Math.round(100 * seen)}% of it lies in the plane`);
      return { name, plane, x, y, path, rows: fine[place], shade: (value) => (value - low) / (high - low), levels: Array.from({ length: 11 }, (_, i) => low + ((i + 1) * (high - low)) / 12) };
    });
  }
  // The shades as one small image: a pixel for each value, in the colour of text, the denser the higher the loss.
  function shades(rows, shade) {
    const canvas = element("canvas", { width: FINE, height: FINE });
    const context = canvas.getContext("2d");
    context.fillStyle = getComputedStyle(document.body).color;
    rows.forEach((row, j) => row.forEach((value, i) => {
      context.globalAlpha = 0.55 * shade(value);
      context.fillRect(i, FINE - 1 - j, 1, 1);
    }));
    return canvas.toDataURL();
  }
  // The shades and contours of a map, as one node that stays the same while its width does.
  function ground(map, pen) {
    const { x, y, rows, shade, levels } = map;
    const at = (axis, place) => axis[0] + ((axis.at(-1) - axis[0]) * place) / (FINE - 1);
    const width = pen.x(x.at(-1));
    if (map.ground?.width === width) return map.ground.node;
    const [left, top] = [pen.x(at(x, -0.5)), pen.y(at(y, FINE - 0.5))];
    const size = { width: pen.x(at(x, FINE - 0.5)) - left, height: pen.y(at(y, -0.5)) - top };
    const image = svg("image", { href: shades(rows, shade), x: left, y: top, ...size, preserveAspectRatio: "none" });
    const place = ([column, row]) => `${pen.x(at(x, column)).toFixed(1)} ${pen.y(at(y, row)).toFixed(1)}`;
    const d = levels.flatMap((level) => Landscape.contour(rows, level)).map(([from, to]) => `M${place(from)}L${place(to)}`).join("");
    map.ground = { width, node: svg("g", {}, image, svg("path", { d, fill: "none", stroke: "var(--quiet)", "stroke-width": 0.7 })) };
    return map.ground.node;
  }
  function drawMap(map, now) {
    const { name, path } = map;
    map.plane.draw((pen) => {
      pen.inside.append(ground(map, pen));
      const { colour, mark } = ALGORITHMS[name];
      path.slice(1).forEach((end, k) => pen.arrow(path[k], end, { colour, width: 2.5 }));
      pen.mark(...path[0], { size: 5, colour: "var(--page)", width: 1.5 });
      pen.mark(...path.at(-1), { shape: "square", size: 5, colour: "var(--page)", width: 1.5 });
      pen.mark(...path[now], { shape: mark, size: 7, colour, width: 1.5 });
    });
  }

  function drawCurves(pen, names, now, values, many) {
    const mean = (rows, k) => rows.reduce((sum, row) => sum + row[k], 0) / rows.length;
    for (const name of names) {
      const { colour, dash } = ALGORITHMS[name];
      if (!state.values.others) break;
      const tens = Array.from({ length: Math.ceil(many(name).length / 10) }, (_, i) => many(name).slice(10 * i, 10 * i + 10));
      for (const ten of tens) pen.lines(ten.map((row) => row.map((value, k) => [k, value])), { colour, width: 1, opacity: 0.12 });
      pen.line(values(name).map((_, k) => [k, mean(many(name), k)]), { colour, width: 1.2, dash });
    }
    pen.upright(now, { colour: "var(--text)", width: 1.5, dash: "3 3" });
    for (const name of names) {
      const { colour, dash, mark } = ALGORITHMS[name];
      pen.line(values(name).map((value, k) => [k, value]), { colour, dash, width: 3 });
      values(name).forEach((value, k) => pen.mark(k, value, { shape: mark, colour, size: k === now ? 7 : 4.5 }));
    }
  }

  // One learner's table: a row for each class, with its support example and its queries.
  function predictions(number, name, now) {
    const { support_labels: support, query_labels: labels, learners } = tasks[number];
    const picture = (place, said) => element("span", {
      class: "letter", role: "img", "aria-label": said,
      style: `background-position: ${-44 * place}px 0`,
    });
    const query = (place) => {
      const chances = learners[name].chances[now][place];
      const best = chances.indexOf(Math.max(...chances));
      const right = best === labels[place];
      const said = `${right ? "✓" : "✗"} ${LETTERS[best]} ${Math.round(chances[best] / 10)}%`;
      return element("td", {}, picture(support.length + place, `a ${LETTERS[labels[place]]}`), element("span", { class: right ? "said" : "said wrong" }, said));
    };
    const rows = support.map((label, place) =>
      element("tr", {}, element("th", { scope: "row" }, LETTERS[label]),
        element("td", { class: "support" }, picture(place, `the support example of ${LETTERS[label]}`), "support"),
        ...labels.flatMap((of, at) => (of === label ? [query(at)] : []))));
    return element("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": `Predictions of ${ALGORITHMS[name].title}` },
      element("table", {}, element("caption", {}, `${ALGORITHMS[name].title}, ${learners[name].correct[now]} of ${QUERIES} correct`), element("tbody", {}, ...rows)));
  }

  function show(values) {
    const [number, now] = [values.task, Math.round(values.step)];
    const names = NAMES.filter((name) => values[name]);
    const { learners, names: letters, scripts } = tasks[number];
    step.show(now);
    task.show(number);
    others.show(values.others);
    boxes.show(values);
    const lossOf = (name) => learners[name].query_loss;
    const correctOf = (name) => learners[name].correct.map((correct) => (100 * correct) / QUERIES);
    const seen = NAMES.flatMap(lossOf);
    loss.axes({ y: { min: Math.min(0.05, ...seen) / 1.2, max: Math.max(10, ...seen) * 1.2 } });
    loss.draw((pen) => drawCurves(pen, names, now, lossOf, (name) => crowd[name].losses));
    accuracy.draw((pen) => drawCurves(pen, names, now, correctOf, (name) => crowd[name].correct.map((row) => row.map((correct) => (100 * correct) / QUERIES))));
    const each = names.map((name) => `${ALGORITHMS[name].title} ${learners[name].correct[now]} of ${QUERIES} correct, loss ${words(lossOf(name)[now], 2)}`);
    const said = names.length ? `${titleOf(number)}, step ${now} of ${STEPS}. ${each.join("; ")}.` : "Choose at least one algorithm.";
    byId("status").textContent = said;
    loss.describe(said);
    accuracy.describe(said);
    byId("letters").textContent = letters.map((letter, i) => `${LETTERS[i]}: ${scripts[i]}, ${letter}`).join("; ");
    byId("predictions").style.setProperty("--letters", `url(data:image/png;base64,${tasks[number].images})`); // one row of all
    byId("predictions").replaceChildren(...names.map((name) => predictions(number, name, now)));
    makeMaps(number, names);
    maps.charts.forEach((map) => drawMap(map, now));
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    maps.key = ""; // the shades have the colour of text
    show(state.values);
  });
  show(state.values);
}
