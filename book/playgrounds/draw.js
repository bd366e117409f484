"use strict";

/* The page "Draw your own": boxes to draw in, a worker that adapts, tables of belief, and a round for the reader. */

(() => {
  const { ALGORITHMS, element, svg, button, state, swatch, shareButton, chooser } = Playground;
  const core = drawCore();
  const characters = core.sheet(DRAW_GLYPHS);
  const WEIGHTS = { 5: DRAW_WEIGHTS, 20: DRAW_WEIGHTS_20 }; // by ways
  const NAMES = Object.keys(DRAW_WEIGHTS);
  const WAYS = 5, QUERY = WAYS; // the number of the box for the query
  const TASKS = 10; // of a round
  const LABELS = [0, 1, 2, 3, 4];
  const byId = (id) => document.getElementById(id);
  const titleOf = (number) => (number === QUERY ? "Query" : `Class ${number + 1}`);
  const nameOf = (number) => (number === QUERY ? "the query" : `class ${number + 1}`);
  const percent = (share) => `${Math.round(100 * share)}%`;

  const th = (scope, ...words) => element("th", { scope }, ...words);
  const td = (words, attributes = {}) => element("td", attributes, words);
  const tr = (...cells) => element("tr", {}, ...cells);
  const tableOf = (head, rows, kind = "") =>
    element("table", { class: `numbers ${kind}` }, element("thead", {}, head), element("tbody", {}, ...rows));

  // ---- Adaptation, in a worker for each network

  /* What runs in a worker, beside the engine: the learner for so many ways adapts to a support set and classifies
   * queries. The boxes and the round each keep their own adapted parameters. */
  function serve(engine, stored, send) {
    const followers = {};
    return ({ id, purpose, support, labels, queries }) => {
      const ways = labels.length;
      followers[`${purpose} ${ways}`] ||= engine.follower(engine.decode(stored[ways]));
      const { loss, logits } = followers[`${purpose} ${ways}`](support, labels, queries);
      send({ id, loss, beliefs: logits.map((rows) => engine.softmax(rows, ways)), vectors: engine.vectors });
    };
  }

  const waiting = new Map(); // what to do with the answer to a request, by its number
  function answer({ id, ...found }) {
    waiting.get(id)(found);
    waiting.delete(id);
  }

  function startWorker(name) {
    const stored = Object.fromEntries(Object.entries(WEIGHTS).map(([ways, learners]) => [ways, learners[name]]));
    try {
      // From a folder a page may not load a worker's file, but it may make one of text that it has.
      const text = `const answering = (${serve})(
        (${mamlEngine})(${JSON.stringify(PRODUCT_KERNEL)}), ${JSON.stringify(stored)}, postMessage);
        onmessage = (event) => answering(event.data);`;
      const worker = new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
      worker.onmessage = (event) => answer(event.data);
      return (request) => worker.postMessage(request);
    } catch {
      const answering = serve(mamlEngine(PRODUCT_KERNEL), stored, answer); // without a worker the page waits a moment
      return (request) => setTimeout(() => answering(request));
    }
  }
  const workers = Object.fromEntries(NAMES.map((name) => [name, startWorker(name)]));

  let requests = 0;
  /* Resolves to {name: {loss: [steps + 1], beliefs: [steps + 1] of (queries x ways), vectors}}; one image a class. */
  async function adapted(purpose, support, queries) {
    const joined = (images) => Float32Array.from(images.flatMap((image) => [...image]));
    const labels = support.map((_, way) => way);
    const request = { purpose, support: joined(support), labels, queries: joined(queries) };
    const found = NAMES.map((name) => new Promise((resolve) => {
      const id = ++requests;
      waiting.set(id, resolve);
      workers[name]({ id, ...request });
    }));
    return Object.fromEntries((await Promise.all(found)).map((one, i) => [NAMES[i], one]));
  }

  // ---- Pictures

  const sheetOfPaper = document.createElement("canvas");
  sheetOfPaper.width = sheetOfPaper.height = core.SIDE;

  const made = new WeakMap(); // what was made before: an image of each box, an address of each image
  const once = (key, make) => made.get(key) ?? (made.set(key, make(key)), made.get(key));
  const imageOf = (box) => once(box, () => core.imageOf(box, characters));

  function urlOf(image) {
    const context = sheetOfPaper.getContext("2d", { willReadFrequently: true });
    const pixels = context.createImageData(core.SIDE, core.SIDE);
    image.forEach((ink, i) => (pixels.data[4 * i + 3] = 255 * ink));
    context.putImageData(pixels, 0, 0);
    return sheetOfPaper.toDataURL();
  }

  /* An image as an element: ink in the colour of text, in both themes. `words` names it; without, it is decoration. */
  function picture(image, words = "", kind = "") {
    const naming = words ? { role: "img", "aria-label": words } : { "aria-hidden": "true" };
    return element("span", { class: `picture ${kind}`, style: `--ink: url(${once(image, urlOf)})`, ...naming });
  }

  const framed = (image, words) => element("span", { class: "framed" }, picture(image, words, "exact"));

  /* What a box holds, in words. */
  function inWords(box) {
    if (box.letter !== undefined) {
      const [script, name] = characters.letters[box.letter];
      return `${script}: ${name}, by writer ${box.writer + 1}`;
    }
    const strokes = box.strokes.length;
    return strokes === 0 ? "empty" : `a drawing of ${strokes} ${strokes === 1 ? "stroke" : "strokes"}`;
  }

  // ---- Boxes

  const NOTHING = Array(WAYS + 1).fill(core.EMPTY);
  let boxes = NOTHING;
  const past = boxes.map(() => []); // what each box held before, the latest last
  const kept = state({
    d: { value: "" }, round: { value: 0, min: 0, max: 1e6 }, ways: { value: "5", allowed: Object.keys(WEIGHTS) },
  }, showState);
  const papers = boxes.map((_, number) => makeBox(number));

  function makeBox(number) {
    const paper = element("div", { class: "paper", role: "img" });
    const seen = element("span", {});
    const name = nameOf(number);
    const undo = button("Undo", () => undoIn(number), { "aria-label": `Undo in ${name}` });
    const clear = button("Clear", () => change(number, core.EMPTY), { "aria-label": `Clear ${name}` });
    const pick = button("Pick", () => openSheet(number), { "aria-label": `Pick ${name} from the sheet` });
    const caption = element("figcaption", {}, titleOf(number), seen);
    const figure = element(
      "figure", { class: number === QUERY ? "box query" : "box" },
      caption, paper, element("div", { class: "buttons" }, undo, clear, pick),
    );
    byId("boxes").append(figure);
    drawOn(paper, number);
    return { paper, seen, undo, clear };
  }

  /* Let pen, mouse or finger draw strokes into a box. */
  function drawOn(paper, number) {
    let stroke = null, line = null;
    const place = (event) => {
      const frame = paper.getBoundingClientRect();
      const along = (at, from, size) => Math.min(Math.max(((at - from) / size) * core.GRID, 0), core.GRID);
      return [along(event.clientX, frame.left, frame.width), along(event.clientY, frame.top, frame.height)];
    };
    paper.addEventListener("pointerdown", (event) => {
      if (stroke || event.button !== 0) return;
      paper.setPointerCapture(event.pointerId);
      stroke = { pointer: event.pointerId, points: [place(event)] };
      if (!boxes[number].strokes) show(number, core.EMPTY); // a drawing takes the place of a letter
      line = lineOf(stroke.points);
      paper.querySelector("svg").append(line);
      event.preventDefault();
    });
    paper.addEventListener("pointermove", (event) => {
      if (stroke?.pointer !== event.pointerId) return;
      const events = event.getCoalescedEvents?.() || [];
      stroke.points.push(...(events.length ? events : [event]).map(place));
      line.setAttribute("points", pointsOf(stroke.points));
    });
    const end = (event) => {
      if (stroke?.pointer !== event.pointerId) return;
      const before = boxes[number].strokes || [];
      const strokes = core.storable([...before, core.simplified(stroke.points)]);
      stroke = null;
      change(number, { strokes });
    };
    paper.addEventListener("pointerup", end);
    paper.addEventListener("pointercancel", end);
  }

  // A line of one point has no length and would not be seen.
  const pointsOf = (points) => (points.length === 1 ? [points[0], points[0]] : points).join(" ");
  const lineOf = (points) => svg("polyline", { points: pointsOf(points) });

  function show(number, box) {
    const { paper, seen, undo, clear } = papers[number];
    const lines = (box.strokes || []).map(lineOf);
    const letter = box.strokes ? [] : [picture(imageOf(box))];
    const whole = `0 0 ${core.GRID} ${core.GRID}`;
    paper.replaceChildren(svg("svg", { viewBox: whole, "aria-hidden": "true" }, ...lines), ...letter);
    paper.setAttribute("aria-label", `${titleOf(number)}: ${inWords(box)}`);
    const small = () => framed(imageOf(box), `${titleOf(number)} as the networks see it`);
    seen.replaceChildren(...(core.isEmpty(box) ? [] : [small()]));
    undo.disabled = !past[number].length;
    clear.disabled = core.isEmpty(box);
  }

  function change(number, box) {
    setBoxes(boxes.map((other, i) => (i === number ? box : other)));
  }

  function setBoxes(wanted) {
    wanted.forEach((box, number) => box !== boxes[number] && past[number].push(boxes[number]));
    boxes = wanted;
    save();
  }

  /* One stroke, letter or clearing back. */
  function undoIn(number) {
    boxes = boxes.with(number, past[number].pop());
    save();
  }

  function save() {
    kept.set({ d: boxes.every(core.isEmpty) ? "" : core.encoded(boxes) });
  }

  // ---- State

  let shownText = null, shownRound = 0, shownWays = "";
  /* Show what the address says: called when the page changes it, and when somebody else does. */
  function showState({ d, round, ways }) {
    if (d !== (boxes.every(core.isEmpty) ? "" : core.encoded(boxes)) || shownText === null) {
      boxes = (d ? core.decoded(d, WAYS + 1, characters) : NOTHING) || NOTHING;
      boxes.forEach((box, number) => { // what came by a link can be undone stroke by stroke
        past[number] = (box.strokes || []).map((_, strokes) => ({ strokes: box.strokes.slice(0, strokes) }));
      });
    }
    const readable = !d || !boxes.every(core.isEmpty);
    byId("problem").textContent = readable ? "" :
      `The address holds no drawings that can be read (d=${d.slice(0, 20)}…): it must be a whole link that this page ` +
      "made. The boxes are empty.";
    if (d !== shownText) {
      shownText = d;
      boxes.forEach((box, number) => show(number, box));
      believe();
    }
    if (round !== shownRound || ways !== shownWays) startRound(Math.round(round), ways);
  }

  // ---- Belief

  const believed = Object.fromEntries(NAMES.map((name) => {
    const colour = `--colour: ${ALGORITHMS[name].colour}`;
    const verdict = element("span", {}), table = element("div", {});
    const heading = element("h3", {}, swatch(name), element("span", {}, ALGORITHMS[name].title), verdict);
    const attributes = { class: "belief", style: colour, "aria-label": ALGORITHMS[name].title };
    byId("beliefs").append(element("section", attributes, heading, table));
    return [name, { verdict, table }];
  }));

  let latest = 0;
  async function believe() {
    const mine = ++latest, shown = boxes;
    const missing = LABELS.filter((number) => core.isEmpty(shown[number]));
    if (missing.length) {
      NAMES.forEach((name) => showBelief(name, null, shown));
      const all = missing.length === WAYS;
      const which = missing.map((number) => number + 1).join(", ");
      if (all) return say("Draw five characters, or load an example.");
      return say(`Still empty: class ${which}. The networks adapt once all five are there.`);
    }
    const images = shown.map(imageOf);
    const asked = core.isEmpty(shown[QUERY]) ? [] : [images[QUERY]];
    const began = performance.now();
    const patience = setTimeout(() => mine === latest && say("The networks adapt …"), 300);
    const found = await adapted("boxes", images.slice(0, WAYS), asked);
    clearTimeout(patience);
    if (mine !== latest) return; // something was drawn meanwhile
    const took = `${Math.round(performance.now() - began)} ms` +
      (found[NAMES[0]].vectors ? "" : ", by JavaScript alone: this browser has no WebAssembly with vectors");
    NAMES.forEach((name) => showBelief(name, found[name], shown, images));
    if (!asked.length) return say(`Adapted in ${took}. Now draw one of the five again, in the box “Query”.`);
    const answers = NAMES.map((name) => {
      const { best, share } = verdictOf(found[name]);
      return `${ALGORITHMS[name].title} class ${best + 1} (${percent(share)})`;
    });
    say(`The query is, by ${answers.join(", by ")}. Computed in ${took}.`);
  }

  const say = (words) => (byId("status").textContent = words);

  function verdictOf(found) {
    const last = [...found.beliefs.at(-1)];
    const share = Math.max(...last);
    return { best: last.indexOf(share), share };
  }

  function showBelief(name, found, shown, images) {
    const { verdict, table } = believed[name];
    const steps = Array.from({ length: DRAW_WEIGHTS[name].steps + 1 }, (_, k) => k);
    const asked = found && found.beliefs[0].length > 0;
    verdict.textContent = asked ? `→ class ${verdictOf(found).best + 1}, ${percent(verdictOf(found).share)}` : "";
    const cell = (k, way) => {
      if (!asked) return td("–");
      const shares = found.beliefs[k], most = k > 0 && shares[way] === Math.max(...shares);
      return td(percent(shares[way]), { class: most ? "part most" : "part", style: `--part: ${100 * shares[way]}%` });
    };
    const rows = LABELS.map((way) => {
      const thumb = images ? [framed(images[way])] : [];
      const head = th("row", element("span", { class: "hidden-words" }, "class "), `${way + 1}`, ...thumb);
      return tr(head, ...steps.map((k) => cell(k, way)));
    });
    const losses = steps.map((k) => td(found ? found.loss[k].toFixed(2) : "–"));
    const head = tr(th("col", "step"), ...steps.map((k) => th("col", `${k}`)));
    table.replaceChildren(tableOf(head, [...rows, tr(th("row", "support loss"), ...losses)]));
  }

  // ---- The sheet of characters

  const scripts = [...new Set(characters.letters.map(([script]) => script))];
  const chosen = { number: 0, script: scripts[0], writer: 0 };
  const title = element("h2", { id: "sheet-title" }), letters = element("div", { class: "letters" });
  const writers = Array.from({ length: characters.writers }, (_, writer) => [writer, `${writer + 1}`]);
  const choosers = {
    script: chooser({
      label: "Script", value: chosen.script, choices: Object.fromEntries(scripts.map((script) => [script, script])),
      onChange: (script) => showSheet({ script }),
    }),
    writer: chooser({
      label: "Drawn by writer", value: 0, choices: Object.fromEntries(writers),
      onChange: (writer) => showSheet({ writer: Number(writer) }),
    }),
  };
  const close = button("Close", () => byId("sheet").close());
  byId("sheet").append(title, choosers.script.element, choosers.writer.element, letters, close);

  function openSheet(number) {
    // The query is better by somebody else than the support set, else it is the same drawing.
    showSheet({ number, writer: number === QUERY ? 1 : 0 });
    byId("sheet").showModal();
  }

  function showSheet(choice) {
    Object.assign(chosen, choice);
    title.textContent = `A character for ${nameOf(chosen.number)}`;
    choosers.script.show(chosen.script);
    choosers.writer.show(chosen.writer);
    const { writer } = chosen;
    letters.replaceChildren(...characters.letters.flatMap(([script, name], letter) => {
      if (script !== chosen.script) return [];
      const pick = () => {
        byId("sheet").close();
        change(chosen.number, { letter, writer });
      };
      return [button(picture(characters.image(letter, writer)), pick, { "aria-label": name, title: name })];
    }));
  }

  // ---- Examples

  // Drawn by hand, as the address has it: a spiral, a house, a fish, a star, waves; and another fish.
  const BY_HAND =
    "AQEdjICPhI-NiZd3nmKYWY9Sg1B1Vl9hUnBIg0OhRrVQxGDPddKMzaXIsLfFoNWD3WXdVdk5yyG1GKcSmAIGMtc0boAqznDL2DLVBGzW" +
    "bqCSoZPVAxK0kLCXpKKTqnWwYK9MqzOeJYwjfitrPltQVGVQhFKXWK1mtnMEtHDkTuKytZECTnBPcQEGgB6szSZi3F5Q0oAeAhIeZC1_" +
    "NoY7hUV6XUtnQmxCe1SOe5iFnYaihKx3v1DJRNND4VgSHqsouzLDNsNAu12LZ4dsiXaUibeOvZjDncKnuLqWyYfTi-GgAxCXo46ugbhy" +
    "vljASLwzsSWfIYokfDBqTFplWH1fi2eZeQSYdsRkvraUpgJCekR8";

  let example = 0;
  /* First what was drawn by hand; after that, each time another script: five letters, and one by another writer. */
  function loadExample() {
    const number = example++;
    if (number === 0) return setBoxes(core.decoded(BY_HAND, WAYS + 1, characters));
    const script = scripts[number % scripts.length];
    const found = characters.letters.flatMap(([of], letter) => (of === script ? [letter] : [])).slice(0, WAYS);
    const asked = { letter: found[(number + 2) % WAYS], writer: 3 };
    setBoxes([...found.map((letter) => ({ letter, writer: 0 })), asked]);
  }

  byId("tools").append(
    button("Load an example", loadExample, { class: "first" }),
    button("Clear all", () => setBoxes(boxes.map(() => core.EMPTY))),
    shareButton(kept, byId("status")),
  );

  // ---- A round

  const start = button("Start a round", () => kept.set({ round: kept.values.round + 1 }), { class: "first" });
  const ofWays = chooser({
    label: "Classes in a task (ways)", value: kept.values.ways,
    choices: Object.fromEntries(Object.keys(WEIGHTS).map((ways) => [ways, ways])),
    onChange: (ways) => kept.set({ ways }),
  });
  byId("ways").append(ofWays.element);

  function startRound(seed, ways) {
    [shownRound, shownWays] = [seed, ways];
    ofWays.show(ways);
    if (!seed) return byId("round").replaceChildren(element("div", { class: "buttons" }, start));
    const tasks = core.tasksOf(seed, TASKS, Number(ways), characters);
    ask(tasks, 0, { you: 0, ...Object.fromEntries(NAMES.map((name) => [name, 0])) });
  }

  function ask(tasks, number, score) {
    const { support, query, label } = tasks[number];
    const reached = byId("round").contains(document.activeElement); // then the focus stays in the round
    const found = adapted("round", support.map(imageOf), [imageOf(query)]); // while the reader thinks
    const verdict = element("p", { role: "status" }), after = element("div", { class: "buttons" });
    const answers = support.map((box, way) => {
      const choose = () => judge(way);
      const letter = picture(imageOf(box), "a letter");
      return element("button", { type: "button", onclick: choose }, letter, `Class ${way + 1}`);
    });

    async function judge(way) {
      answers.forEach((one) => (one.disabled = true));
      answers[label].classList.add("right");
      if (way !== label) answers[way].classList.add("wrong");
      const theirs = await found;
      const right = (of) => (of === label ? "right" : "wrong");
      const words = NAMES.map((name) => {
        const { best, share } = verdictOf(theirs[name]);
        score[name] += best === label;
        return `${ALGORITHMS[name].title} class ${best + 1} with ${percent(share)} (${right(best)})`;
      });
      score.you += way === label;
      verdict.textContent = `It is class ${label + 1}. You: class ${way + 1} (${right(way)}); ${words.join("; ")}.`;
      const last = number + 1 === tasks.length;
      const next = last
        ? button("Another round", () => kept.set({ round: shownRound + 1 }), { class: "first" })
        : button("Next task", () => ask(tasks, number + 1, score), { class: "first" });
      const look = button("Look at this task above", () => {
        setBoxes([...support, query]);
        byId("boxes").scrollIntoView();
      });
      after.replaceChildren(next, ...(support.length === WAYS ? [look] : [])); // there are boxes for so many
      next.focus();
      table.replaceWith((table = scoreTable(score, number + 1)));
    }

    const asked = framed(imageOf(query), "the query");
    const choice = element("div", { class: "answers", role: "group", "aria-label": "Your answer" }, ...answers);
    let table = scoreTable(score, number);
    byId("round").replaceChildren(
      element("p", {}, `Round ${shownRound}, task ${number + 1} of ${tasks.length}, ${support.length}-way`),
      element(
        "div", { class: "question" },
        element("div", { class: "asked" }, element("div", {}, "Query"), asked),
        element("div", { class: "choice-of-class" }, element("div", {}, "Which is it?"), choice),
      ),
      verdict, after, table,
    );
    if (reached) answers[0].focus();
  }

  function scoreTable(score, asked) {
    const titles = { you: "You", ...Object.fromEntries(NAMES.map((name) => [name, ALGORITHMS[name].title])) };
    const head = tr(td(""), ...Object.values(titles).map((words) => th("col", words)));
    const scores = Object.keys(titles).map((name) => td(`${score[name]} of ${asked}`));
    return tableOf(head, [tr(th("row", "right answers"), ...scores)], "score");
  }

  // ---- What was recorded

  const recorded = (dataset, ways) => NAMES.map((name) => {
    const [accuracy, interval] = WEIGHTS[ways][name].tested[dataset];
    return `${ALGORITHMS[name].title} ${(100 * accuracy).toFixed(1)} ± ${(100 * interval).toFixed(1)}%`;
  }).join(", ");
  const tasksOf = (ways) => WEIGHTS[ways][NAMES[0]].tested.tasks;
  byId("record").textContent =
    `How often each is right, asked as here, on ${tasksOf(5)} tasks of scripts that it was not trained on (± half a ` +
    `95% interval). Letters as on the sheet: ${recorded("glyphs", 5)}. Omniglot, drawn by people, smaller and with ` +
    `thinner pens: ${recorded("omniglot", 5)}. Letters, 20-way, ${tasksOf(20)} tasks: ${recorded("glyphs", 20)}. ` +
    "The records are results/playground.json and results/pretrained-glyphs-20w1s.json.";

  showState(kept.values);
})();
