"use strict";
(() => {
  const SYMBOLS = ["circle", "square", "diamond", "triangle-down", "triangle-up", "pentagon", "x", "star"];
  const DASHES = ["solid", "dash", "dashdot"];
  const THEORY_DASHES = ["dash", "longdash", "dashdot", "longdashdot"];
  const GREY = "#6b6b6b";
  const [MOST_LINES, MOST_TICKS, MOST_SEEDS, MOST_ROWS, LONGEST, MARGIN] = [8, 8, 12, 1000, 36, 0.05];

  const data = JSON.parse(document.getElementById("data").textContent);
  const { axes, trials, quantities, colours } = data;
  const strides = axes.map((_, i) => axes.slice(i + 1).reduce((product, axis) => product * axis.labels.length, 1));
  const places = new Map(); // index of a curve point in the box of all labels → its place in the arrays
  data.points.reduce((index, step, place) => (places.set(index + step, place), index + step), 0);
  const element = (id) => document.getElementById(id);
  const numbers = (axis) => axis.numeric && axis.labels.length > 1;
  const several = (list) => axes.filter(list).length ? axes.filter(list) : axes;
  const xAxes = several(numbers);
  const state = { x: 0, lines: 0, quantity: 0, held: {}, drawn: new Set(), xScale: "log", yScale: "log", bound: true, theory: true };

  // --- what is known of a curve point -------------------------------------------------------------------------------

  function trialsOf(place, name) {
    const width = trials.labels.length;
    return data.values[name].slice(place * width, (place + 1) * width);
  }

  function statistics(place, name) { // null where a trial is missing: a median of fewer would pass for one of all
    if (!data.everyTrial) {
      const [median, least, most] = data.values[name].slice(3 * place, 3 * place + 3);
      return median === null ? null : { median, least, most };
    }
    const there = trialsOf(place, name).filter((value) => value !== null).sort((a, b) => a - b);
    if (!there.length || there.length < data.declared[place]) return null;
    const [low, high] = [there[(there.length - 1) >> 1], there[there.length >> 1]];
    const median = Number(((low + high) / 2).toPrecision(6));
    return { median, least: there[0], most: there[there.length - 1] };
  }

  function hasBound() { return data.bound !== null && quantities[state.quantity].name === data.main; }

  function theorems() { return data.theory.filter(({ quantity }) => quantity === quantities[state.quantity].name); }

  function pointOf(x, line) {
    const name = quantities[state.quantity].name;
    const labels = { ...state.held, [state.x]: x, [state.lines]: line };
    const place = places.get(strides.reduce((index, stride, axis) => index + stride * labels[axis], 0));
    const found = place === undefined ? null : statistics(place, name);
    if (found === null) return null;
    const bound = hasBound() ? statistics(place, data.bound) : null;
    return { x: axes[state.x].labels[x], place, ...found, bound: bound && bound.median };
  }

  // --- choices ------------------------------------------------------------------------------------------------------

  function holdBest(fixed) { // labels of the other axes with the most points, nearest the middle
    const free = axes.map((_, i) => i).filter((i) => i !== state.x && i !== state.lines);
    const name = quantities[state.quantity].name;
    const counts = new Map();
    for (const [index, place] of places) {
      const labels = free.map((i) => Math.floor(index / strides[i]) % axes[i].labels.length);
      if (!free.every((axis, i) => fixed[axis] === undefined || fixed[axis] === labels[i])) continue;
      if (statistics(place, name) !== null) counts.set(labels.join(), (counts.get(labels.join()) || 0) + 1);
    }
    if (!counts.size && Object.keys(fixed).length) return holdBest({});
    const off = (key) => free.map((i) => axes[i]).reduce((sum, axis, i) => {
      const label = Number(key.split(",")[i]);
      return sum + (axis.numeric ? Math.abs(2 * label + 1 - axis.labels.length) : label / 1e3);
    }, 0);
    let best = free.map(() => 0).join();
    counts.forEach((count, key) => {
      const other = counts.get(best) || 0;
      if (count > other || (count === other && off(key) < off(best))) best = key;
    });
    state.held = Object.fromEntries(free.map((axis, i) => [axis, Number(best.split(",")[i])]));
  }

  function chooseLines() { // the last axis of names, which is the method, unless x took it
    const others = axes.map((_, i) => i).filter((i) => i !== state.x);
    const names = others.filter((i) => !axes[i].numeric);
    const wide = (list) => list.filter((i) => axes[i].labels.length > 1);
    state.lines = [...wide(others), ...others, ...names, ...wide(names)].pop();
    drawFirst();
  }

  function drawFirst() {
    state.drawn = new Set(axes[state.lines].labels.map((_, i) => i).slice(0, MOST_LINES));
  }

  function scaleOfX() {
    const { numeric, labels } = axes[state.x];
    return numeric && labels[0] > 0 && labels[labels.length - 1] >= 4 * labels[0] ? "log" : "linear";
  }

  function scaleOfY() {
    return data.values[quantities[state.quantity].name].every((value) => value === null || value > 0) ? "log" : "linear";
  }

  // --- controls -----------------------------------------------------------------------------------------------------

  function make(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function select(id, text, options, value, change) {
    const list = make("select", { id }, ...options.map(([each, label]) => make("option", { value: each }, label)));
    list.value = value;
    list.addEventListener("change", () => { change(list.value); draw(); });
    return make("label", { className: "choice", htmlFor: id }, text, list);
  }

  function checkbox(id, text, checked, change, colour) {
    const box = make("input", { type: "checkbox", id, checked });
    box.addEventListener("change", () => { change(box.checked); draw(); });
    const swatch = colour ? [make("span", { className: "swatch" })] : [];
    swatch.forEach((each) => { each.style.background = colour; each.setAttribute("aria-hidden", "true"); });
    return make("label", { htmlFor: id }, box, ...swatch, text);
  }

  function fill(id, title, ...children) {
    element(id).replaceChildren(make("legend", {}, title), ...children);
    element(id).hidden = !children.length;
  }

  const byIndex = (list) => list.map((axis) => [axes.indexOf(axis), axis.name]);
  const scales = [["log", "logarithmic"], ["linear", "linear"]];
  const colourOf = (line) => colours[line % colours.length];

  function showWhat() {
    const chosen = quantities.map((quantity, i) => [i, quantity.name]);
    const quantity = select("quantity", "Quantity", chosen, state.quantity, (value) => {
      state.quantity = Number(value);
      element("yscale").value = state.yScale = scaleOfY();
    });
    const x = select("x", "Horizontal axis", byIndex(xAxes), state.x, (value) => {
      const fixed = textsHeld();
      state.x = Number(value);
      if (state.lines === state.x) chooseLines();
      element("xscale").value = state.xScale = scaleOfX();
      holdBest(fixed);
      showLines();
      showHeld();
    });
    const bound = checkbox("bound", "Lower bound", state.bound, (checked) => { state.bound = checked; });
    const theory = checkbox("theory", "Theory", state.theory, (checked) => { state.theory = checked; });
    fill("what", "Draw", quantity, x,
      select("xscale", "Horizontal scale", scales, state.xScale, (to) => { state.xScale = to; }),
      select("yscale", "Vertical scale", scales, state.yScale, (to) => { state.yScale = to; }),
      ...(data.bound === null ? [] : [bound]), ...(data.theory.length ? [theory] : []));
  }

  function textsHeld() { // a function that was chosen stays when the axes are changed
    return Object.fromEntries(Object.entries(state.held).filter(([axis]) => !axes[axis].numeric));
  }

  function showLines() {
    const others = axes.filter((axis, i) => i === state.lines || (i !== state.x && axis.labels.length > 1));
    const which = select("lines", "One line for each", byIndex(others), state.lines, (value) => {
      const fixed = textsHeld();
      state.lines = Number(value);
      drawFirst();
      holdBest(fixed);
      showLines();
      showHeld();
      element("lines").focus();
    });
    const boxes = axes[state.lines].labels.map((label, i) => checkbox(`line-${i}`, String(label), state.drawn.has(i),
      (checked) => { state.drawn[checked ? "add" : "delete"](i); }, colourOf(i)));
    fill("which", "Lines", which, ...boxes);
  }

  function showHeld() {
    const wide = Object.keys(state.held).filter((axis) => axes[axis].labels.length > 1);
    fill("held", "Held at", ...wide.map((axis) => {
      const { name, labels } = axes[axis];
      return select(`at-${name}`, name, labels.map((label, i) => [i, String(label)]), state.held[axis], (value) => {
        state.held[axis] = Number(value);
      });
    }));
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  const brief = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text);
  // Plotly takes some tags in its texts for markup
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const plain = (text) => escaped(brief(String(text)));
  const folded = (text) => (text.match(new RegExp(`.{1,${LONGEST}}(?= |$)|.{1,${LONGEST}}`, "g")) || []).map((line) => escaped(line.trim())).join("<br>");

  function hover(point, label) {
    const { name, units } = quantities[state.quantity], unit = units === "1" ? "" : ` ${plain(units)}`;
    const count = data.declared[point.place];
    const lines = [`<b>${plain(label)}</b>, ${plain(axes[state.x].name)} = ${plain(point.x)}`,
      `${plain(name)}, median of ${count}: ${point.median}${unit}`];
    if (point.bound !== null) lines.push(`bracket [${point.bound}, ${point.median}]`);
    if (!data.everyTrial) return [...lines, `range ${point.least} to ${point.most}${unit}`].join("<br>");
    const bounds = point.bound === null ? [] : trialsOf(point.place, data.bound);
    const each = trialsOf(point.place, name)
      .map((value, i) => [value, `${plain(trials.name)} ${plain(trials.labels[i])}: `, bounds[i] ?? null])
      .filter(([value]) => value !== null)
      .map(([value, seed, bound]) => seed + (bound === null ? `${value}${unit}` : `${value}  in [${bound}, ${value}]`));
    const more = each.length > MOST_SEEDS ? [`and ${each.length - MOST_SEEDS} more`] : [];
    return [...lines, ...each.slice(0, MOST_SEEDS), ...more].join("<br>");
  }

  function curves() {
    const { labels, name, numeric } = axes[state.lines];
    return [...state.drawn].sort((a, b) => a - b).map((line) => {
      const points = axes[state.x].labels.map((_, x) => pointOf(x, line)).filter((point) => point !== null);
      const fits = points.filter((point) => (state.xScale !== "log" || point.x > 0)
        && (state.yScale !== "log" || point.least > 0));
      return { line, label: numeric ? `${name} = ${labels[line]}` : labels[line], points, fits };
    });
  }

  function traces(drawn) {
    const made = [];
    for (const { line, label, fits } of drawn) {
      const colour = colourOf(line), x = fits.map((point) => point.x);
      made.push({ x: [...x, ...x.slice().reverse()], y: [...fits.map((point) => point.least),
        ...fits.map((point) => point.most).reverse()], type: "scatter", mode: "lines", fill: "toself", fillcolor: `${colour}33`,
        line: { width: 0 }, hoverinfo: "skip", showlegend: false, meta: "range" });
      made.push({ x, y: fits.map((point) => point.median), type: "scatter", mode: "lines+markers", name: plain(label),
        line: { color: colour, width: 2, dash: DASHES[Math.floor(line / colours.length) % DASHES.length] },
        marker: { color: colour, size: 7, symbol: SYMBOLS[line % SYMBOLS.length] }, meta: "median",
        hovertext: fits.map((point) => hover(point, label)), hoverinfo: "text", showlegend: true });
    }
    if (state.bound && hasBound()) {
      made.push(...beside(drawn, ({ bound }) => bound, { name: "lower bound", meta: "bound", mode: "lines+markers", dash: "dot" }));
    }
    if (!state.theory) return made;
    return [...made, ...theorems().flatMap(({ label, values }, i) => beside(drawn, ({ place }) => values[place],
      { name: label, meta: "theory", mode: "lines", dash: THEORY_DASHES[i % THEORY_DASHES.length] }))];
  }

  function beside(drawn, valueOf, { name, meta, mode, dash }) { // one line where all curves share it
    const lines = drawn.map(({ line, fits }) => ({ line, points: fits.map((point) => ({ x: point.x, y: valueOf(point) }))
      .filter(({ y }) => y !== null && (y > 0 || state.yScale !== "log")) }));
    const shared = new Map(), every = lines.flatMap(({ points }) => points);
    every.forEach(({ x, y }) => shared.set(x, y));
    const same = every.every(({ x, y }) => shared.get(x) === y);
    const one = axes[state.x].labels.filter((x) => shared.has(x)).map((x) => ({ x, y: shared.get(x) }));
    const found = (same ? [{ line: null, points: one }] : lines).filter(({ points }) => points.length);
    const [low, high] = measured(drawn);
    const seen = every.some(({ y }) => y >= low && y <= high) ? "" : ", out of sight";
    return found.map(({ line, points }, i) => ({
      x: points.map((point) => point.x), y: points.map((point) => point.y), type: "scatter", mode,
      name: `${folded(name)}${seen}`, line: { color: line === null ? GREY : colourOf(line), width: 1.5, dash },
      marker: { size: 4, color: line === null ? GREY : colourOf(line) }, meta, showlegend: i === 0, hoverinfo: "text",
      hovertext: points.map(({ x, y }) => `${folded(name)} ${y}<br>${plain(axes[state.x].name)} = ${plain(x)}`),
    }));
  }

  function measured(drawn) { // smallest and greatest value to show: theory may lie far outside
    const values = drawn.flatMap(({ fits }) => fits.flatMap(({ least, most, bound }) => [least, most,
      ...(state.bound && bound !== null && (bound > 0 || state.yScale !== "log") ? [bound] : [])]));
    const scaled = state.yScale === "log" ? values.map(Math.log10) : values;
    const [low, high] = [Math.min(...scaled), Math.max(...scaled)];
    const margin = MARGIN * (high - low) || MARGIN * (Math.abs(high) || 1);
    const ends = [low - margin, high + margin];
    return state.yScale === "log" ? ends.map((end) => 10 ** end) : ends;
  }

  function layout(drawn) {
    const ends = measured(drawn).map((end) => (state.yScale === "log" ? Math.log10(end) : end));
    const x = axes[state.x], { name, units } = quantities[state.quantity];
    const shown = { tickmode: "array", tickvals: x.labels, ticktext: x.labels.map(plain) };
    const ticks = x.numeric ? x.labels.length <= MOST_TICKS && shown
      : { ...shown, categoryorder: "array", categoryarray: x.labels };
    const axis = { automargin: true, gridcolor: "#e4e4e4", linecolor: "#8a8a8a", ticks: "outside", zeroline: false,
      exponentformat: "power" };
    return {
      xaxis: { ...axis, ...ticks, type: x.numeric ? state.xScale : "category", title: { text: `${plain(x.text)} ${plain(x.name)}` } },
      yaxis: { ...axis, type: state.yScale, ...(ends.every(Number.isFinite) ? { range: ends } : {}), title: { text: plain(units === "1" ? name : `${name} (${units})`) } },
      margin: { l: 50, r: 10, t: 15, b: 40 }, hovermode: "closest", paper_bgcolor: "#fff", plot_bgcolor: "#fff",
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: false, itemdoubleclick: false },
      hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#595959", font: { color: "#1a1a1a", size: 12 } },
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: "#1a1a1a" },
    };
  }

  function describe(drawn) {
    const { name, text } = quantities[state.quantity];
    const held = Object.entries(state.held).map(([axis, label]) => `${axes[axis].name} = ${axes[axis].labels[label]}`);
    const points = drawn.flatMap((curve) => curve.points), fits = drawn.flatMap((curve) => curve.fits);
    const counts = points.map((point) => data.declared[point.place]).reduce((range, count) =>
      [Math.min(range[0], count), Math.max(range[1], count)], [Infinity, 0]);
    const sentences = fits.length
      ? [`Median (line) and range (band) of ${[...new Set(counts)].join(" to ")} trials of ${name}, ${text}, at ${held.join(", ")}.`]
      : [`Nothing to draw of ${name} at ${held.join(", ")}: choose other labels, lines or scales.`];
    const missing = drawn.length * axes[state.x].labels.length - points.length;
    if (missing) sentences.push(`${missing} points of these lines are not complete, or belong to no sweep.`);
    if (points.length > fits.length) {
      sentences.push(`${points.length - fits.length} points that are not positive have no place on a logarithmic scale.`);
    }
    element("caption").textContent = sentences.join(" ");
    const ends = fits.length ? `, from ${Math.min(...fits.map((p) => p.median))} to ${Math.max(...fits.map((p) => p.median))}` : "";
    element("plot").setAttribute("aria-label", `${name} against ${axes[state.x].name}, ${drawn.length} lines${ends}: `
      + `${drawn.map((curve) => curve.label).join(", ")}. The numbers stand in the table below.`);
  }

  function tabulate(drawn) {
    const said = theorems();
    const head = [axes[state.lines].name, axes[state.x].name, "median", "least", "greatest", "trials",
      ...(hasBound() ? [data.bound] : []), ...said.map(({ label }) => label)];
    const rows = drawn.flatMap(({ label, points }) => points.map((point) => [label, point.x, point.median, point.least,
      point.most, data.declared[point.place], ...(hasBound() ? [point.bound ?? "–"] : []),
      ...said.map(({ values }) => values[point.place] ?? "–")]));
    const cell = (tag) => (value, i) => make(tag, { className: i && typeof value !== "object" ? "number" : "" }, String(value));
    const more = rows.length > MOST_ROWS ? `, the first ${MOST_ROWS} of ${rows.length} rows` : "";
    element("table").replaceChildren(
      make("caption", {}, `${quantities[state.quantity].name}${more}`),
      make("thead", {}, make("tr", {}, ...head.map(cell("th")))),
      make("tbody", {}, ...rows.slice(0, MOST_ROWS).map((row) => make("tr", {}, ...row.map(cell("td"))))));
  }

  function draw() {
    const drawn = curves();
    Plotly.react(element("plot"), traces(drawn), layout(drawn), { responsive: true, displayModeBar: false });
    describe(drawn);
    tabulate(drawn);
    if (element("bound")) element("bound").disabled = !hasBound();
    if (element("theory")) element("theory").disabled = !theorems().length;
  }

  element("controls").addEventListener("submit", (event) => event.preventDefault());
  element("controls").append(...["what", "which", "held"].map((id) => make("fieldset", { id, className: id === "which" ? "lines" : "" })));
  element("save").addEventListener("click", () => Plotly.downloadImage(element("plot"),
    { format: "svg", width: 900, height: 560, filename: `${quantities[state.quantity].name}-against-${axes[state.x].name}` }));
  state.x = axes.indexOf(xAxes[0]);
  chooseLines();
  [state.xScale, state.yScale] = [scaleOfX(), scaleOfY()];
  holdBest({});
  showWhat();
  showLines();
  showHeld();
  draw();
})();
