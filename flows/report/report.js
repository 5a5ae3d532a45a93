"use strict";
(() => {
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star", "x"]; // of figures
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
  const numbers = axes.filter((axis) => axis.numeric && axis.labels.length > 1);
  const xAxes = numbers.length ? numbers : axes;
  const state = { figure: "", x: 0, lines: 0, quantity: 0, held: {}, drawn: new Set(), xScale: "log", yScale: "log",
    statistic: "median", beside: [], bound: true, theory: true, places, followers: [] };

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

  function labelOf(index, axis) { return Math.floor(index / strides[axis]) % axes[axis].labels.length; }

  function medianOf(place, name) { return statistics(place, name)?.median ?? null; }

  function isMedian() { return state.statistic === "median"; }

  function hasBound() { // a maximum and a bound may be of different trials
    return data.bound !== null && quantities[state.quantity].name === data.main && isMedian();
  }

  function theorems() { return data.theory.filter(({ quantity }) => quantity === quantities[state.quantity].name); }

  function pointOf(x, line) {
    const name = quantities[state.quantity].name;
    const labels = { ...state.held, [state.x]: x, [state.lines]: line };
    const place = state.places.get(strides.reduce((index, stride, axis) => index + stride * (labels[axis] ?? 0), 0));
    const found = place === undefined ? null : statistics(place, name);
    if (found === null) return null;
    const bound = hasBound() ? statistics(place, data.bound) : null;
    const value = isMedian() ? found.median : found.most;
    return { x: axes[state.x].labels[x], place, ...found, value, bound: bound && bound.median };
  }

  // --- choices ------------------------------------------------------------------------------------------------------

  function holdBest(fixed) { // labels of the other axes with the most points, nearest the middle; false if none
    const free = axes.map((_, i) => i).filter((i) => ![state.x, state.lines, ...state.followers].includes(i));
    const name = quantities[state.quantity].name;
    const found = new Map();
    for (const [index, place] of state.places) {
      const labels = free.map((i) => labelOf(index, i));
      const fits = free.every((axis, i) => labels[i] === (fixed[axis] ?? labels[i]));
      if (!fits || statistics(place, name) === null) continue;
      const { count } = found.get(labels.join()) ?? { count: 0 };
      found.set(labels.join(), { labels, count: count + 1 });
    }
    const off = (labels) => labels.reduce((sum, label, i) => {
      const axis = axes[free[i]];
      return sum + (axis.numeric ? Math.abs(2 * label + 1 - axis.labels.length) : label / 1e3);
    }, 0);
    const [best] = [...found.values()].sort((a, b) => b.count - a.count || off(a.labels) - off(b.labels));
    state.held = Object.fromEntries(free.map((axis, i) => [axis, best ? best.labels[i] : 0]));
    return found.size > 0;
  }

  function keepNames(change) { // a function that was chosen stays when the axes are changed
    const names = Object.fromEntries(Object.entries(state.held).filter(([axis]) => !axes[axis].numeric));
    change();
    if (!holdBest(names)) holdBest({});
  }

  function admitted({ points, followers }) { // points of a figure, those along axes that follow as if at the first label
    if (points === null) return places;
    const at = new Set(points);
    const first = (index) => followers.reduce((sum, axis) => sum - strides[axis] * labelOf(index, axis), index);
    return new Map([...places].filter(([, place]) => at.has(place)).map(([index, place]) => [first(index), place]));
  }

  function admitAll() { // as a choice of one's own does
    if (state.places === places) return;
    keepNames(() => Object.assign(state, { places, followers: [] }));
  }

  function adopt(figure) { // what a declared figure sets; false if it has no curve
    const { quantity, x, lines, statistic, beside, xScale, yScale, followers } = figure;
    const drawn = new Set(figure.only ?? axes[lines].labels.keys());
    const own = { places: admitted(figure), followers };
    Object.assign(state, { quantity, x, lines, statistic, beside, xScale, yScale, drawn, ...own });
    const found = holdBest(figure.at);
    state.drawn = new Set(curves().filter(({ points }) => points.length).map(({ line }) => line));
    return found;
  }

  function chooseLines() { // the last axis of names, which is the method, unless x took it
    const others = axes.map((_, i) => i).filter((i) => i !== state.x);
    const names = others.filter((i) => !axes[i].numeric);
    const wide = (list) => list.filter((i) => axes[i].labels.length > 1);
    state.lines = [...wide(others), ...others, ...names, ...wide(names)].pop();
    drawFirst();
  }

  function drawFirst() { state.drawn = new Set(axes[state.lines].labels.slice(0, MOST_LINES).keys()); }

  function scaleOfX() {
    const { numeric, labels } = axes[state.x];
    return numeric && labels[0] > 0 && labels[labels.length - 1] >= 4 * labels[0] ? "log" : "linear";
  }

  function scaleOfY() {
    const there = data.values[quantities[state.quantity].name].filter((value) => value !== null);
    const positive = there.filter((value) => value > 0);
    const least = positive.reduce((low, value) => Math.min(low, value), Infinity);
    const wide = there.every((value) => value >= 0) && positive.some((value) => value > 100 * least);
    return wide || positive.length === there.length ? "log" : "linear";
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
    list.addEventListener("change", () => {
      state.figure = "";
      admitAll();
      change(list.value);
      show();
      element(id).focus();
    });
    return make("label", { className: "choice", htmlFor: id }, text, list);
  }

  function checkbox(id, text, checked, change, colour) {
    const box = make("input", { type: "checkbox", id, checked });
    box.addEventListener("change", () => {
      change(box.checked);
      draw();
    });
    const properties = { className: "swatch", style: `background: ${colour}`, ariaHidden: "true" };
    const swatch = colour ? [make("span", properties)] : [];
    return make("label", { htmlFor: id }, box, ...swatch, text);
  }

  function fill(id, title, ...children) {
    element(id).replaceChildren(make("legend", {}, title), ...children);
    element(id).hidden = !children.length;
  }

  const byIndex = (list) => list.map((axis) => [axes.indexOf(axis), axis.name]);
  const scales = [["log", "logarithmic"], ["linear", "linear"]];
  const placeOf = (line) => axes[state.lines].places[line];
  const colourOf = (line) => colours[placeOf(line) % colours.length];

  function showWhat() {
    const named = [...figures.map(({ name }, i) => [i, name]), ["", "own choice"]];
    const figure = select("figure", "Figure", named, state.figure, (value) => {
      state.figure = value;
      if (value) adopt(figures[value]);
      else state.beside = [];
    });
    const chosen = quantities.map((quantity, i) => [i, quantity.name]);
    const quantity = select("quantity", "Quantity", chosen, state.quantity, (value) => {
      state.quantity = Number(value);
      state.beside = [];
      state.yScale = scaleOfY();
    });
    const kinds = [["median", "median and range"], ["max", "maximum"]];
    const statistic = select("statistic", "Statistic", kinds, state.statistic, (value) => {
      state.statistic = value;
    });
    const x = select("x", "Horizontal axis", byIndex(xAxes), state.x, (value) => keepNames(() => {
      state.x = Number(value);
      if (state.lines === state.x) chooseLines();
      state.xScale = scaleOfX();
    }));
    const bound = checkbox("bound", "Lower bound", state.bound, (checked) => { state.bound = checked; });
    const theory = checkbox("theory", "Theory", state.theory, (checked) => { state.theory = checked; });
    fill("what", "Draw", ...(figures.length ? [figure] : []), quantity, statistic, x,
      select("xscale", "Horizontal scale", scales, state.xScale, (to) => { state.xScale = to; }),
      select("yscale", "Vertical scale", scales, state.yScale, (to) => { state.yScale = to; }),
      ...(data.bound === null ? [] : [bound]), ...(data.theory.length ? [theory] : []));
  }

  function showLines() {
    const others = axes.filter((axis, i) => i === state.lines || (i !== state.x && axis.labels.length > 1));
    const which = select("lines", "One line for each", byIndex(others), state.lines, (value) => keepNames(() => {
      state.lines = Number(value);
      drawFirst();
    }));
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

  function show() {
    showWhat();
    showLines();
    showHeld();
    draw();
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  // Plotly takes some tags in its texts for markup
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const plain = (text) => escaped(String(text).length > LONGEST ? `${text.slice(0, LONGEST)}…` : String(text));
  const folded = (text) => (text.match(new RegExp(`.{1,${LONGEST}}(?= |$)|.{1,${LONGEST}}`, "g")) || [])
    .map((line) => escaped(line.trim())).join("<br>");
  const hasPlace = (value) => value !== null && (value > 0 || state.yScale !== "log");

  function hover(point, label) {
    const { name, units } = quantities[state.quantity], unit = units === "1" ? "" : ` ${plain(units)}`;
    const count = data.declared[point.place];
    const lines = [`<b>${plain(label)}</b>, ${plain(axes[state.x].name)} = ${plain(point.x)}`,
      `${plain(name)}, ${isMedian() ? "median" : "maximum"} of ${count}: ${point.value}${unit}`];
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
      const fits = points.filter((point) => (state.xScale !== "log" || point.x > 0) && hasPlace(point.value));
      return { line, label: numeric ? `${name} = ${labels[line]}` : labels[line], points, fits };
    });
  }

  function traces(drawn) {
    const made = [], [low] = measured(drawn);
    for (const { line, label, fits } of drawn) {
      const colour = colourOf(line), x = fits.map((point) => point.x);
      const from = fits.map(({ least, median }) => (hasPlace(least) ? least : Math.min(low, median)));
      const band = [...from, ...fits.map((point) => point.most).reverse()];
      const range = { x: [...x, ...x.slice().reverse()], y: band, type: "scatter", mode: "lines", fill: "toself",
        fillcolor: `${colour}33`, line: { width: 0 }, hoverinfo: "skip", showlegend: false, meta: "range" };
      if (isMedian()) made.push(range);
      made.push({ x, y: fits.map(({ value }) => value), type: "scatter", mode: "lines+markers", name: plain(label),
        line: { color: colour, width: 2, dash: DASHES[Math.floor(placeOf(line) / colours.length) % DASHES.length] },
        marker: { color: colour, size: 7, symbol: SYMBOLS[placeOf(line) % SYMBOLS.length] }, meta: "line",
        hovertext: fits.map((point) => hover(point, label)), hoverinfo: "text", showlegend: true });
    }
    state.beside.forEach((name, i) => made.push(...beside(drawn, ({ place }) => medianOf(place, name),
      { name: `median of ${quantities.find((each) => each.name === name).label}`, meta: "beside", mode: "lines",
        dash: THEORY_DASHES[i % THEORY_DASHES.length] })));
    if (state.bound && hasBound()) {
      made.push(...beside(drawn, ({ bound }) => bound,
        { name: "lower bound", meta: "bound", mode: "lines+markers", dash: "dot" }));
    }
    if (!state.theory) return made;
    return [...made, ...theorems().flatMap(({ label, values }, i) => beside(drawn, ({ place }) => values[place],
      { name: label, meta: "theory", mode: "lines", dash: THEORY_DASHES[i % THEORY_DASHES.length] }))];
  }

  function beside(drawn, valueOf, { name, meta, mode, dash }) { // one line where all curves share it
    const lines = drawn.map(({ line, fits }) => ({
      line, points: fits.map((point) => ({ x: point.x, y: valueOf(point) })).filter(({ y }) => hasPlace(y)) }));
    const shared = new Map(), every = lines.flatMap(({ points }) => points);
    every.forEach(({ x, y }) => shared.set(x, y));
    const same = every.every(({ x, y }) => shared.get(x) === y);
    const one = axes[state.x].labels.filter((x) => shared.has(x)).map((x) => ({ x, y: shared.get(x) }));
    const found = (same ? [{ line: null, points: one }] : lines).filter(({ points }) => points.length);
    const [low, high] = measured(drawn);
    const seen = every.some(({ y }) => y >= low && y <= high) ? "" : ", outside the range shown";
    return found.map(({ line, points }, i) => ({
      x: points.map((point) => point.x), y: points.map((point) => point.y), type: "scatter", mode,
      name: `${folded(name)}${seen}`, line: { color: line === null ? GREY : colourOf(line), width: 1.5, dash },
      marker: { size: 4, color: line === null ? GREY : colourOf(line) }, meta, showlegend: i === 0, hoverinfo: "text",
      hovertext: points.map(({ x, y }) => `${folded(name)} ${y}<br>${plain(axes[state.x].name)} = ${plain(x)}`),
    }));
  }

  function measured(drawn) { // smallest and greatest value to show: theory may lie far outside
    const floor = figures[state.figure]?.yLeast ?? -Infinity;
    const values = drawn.flatMap(({ fits }) => fits.flatMap(({ least, value, most, bound, place }) => [value,
      ...(isMedian() ? [least, most] : []), state.bound ? bound : null,
      ...state.beside.map((name) => medianOf(place, name))])).filter(hasPlace).map((value) => Math.max(value, floor));
    const scaled = state.yScale === "log" ? values.map(Math.log10) : values;
    const [low, high] = [Math.min(...scaled), Math.max(...scaled)];
    const margin = MARGIN * (high - low) || MARGIN * (Math.abs(high) || 1);
    const ends = [low - margin, high + margin].map((end) => (state.yScale === "log" ? 10 ** end : end));
    return [floor > 0 ? floor : ends[0], ends[1]];
  }

  function tickStep(scale, low, high) { // by decades, or 1, 2, 5: where Plotly would label every digit, they overlap
    const decades = Math.log10(high / low);
    if (scale !== "log" || !(decades >= 1)) return {};
    if (decades >= 2) return { dtick: Math.ceil(decades / MOST_TICKS) };
    const powers = [0, 1, 2, 3].map((more) => Math.floor(Math.log10(low)) + more);
    const tickvals = powers.flatMap((power) => [1, 2, 5].map((digit) => Number(`${digit}e${power}`)));
    return { tickmode: "array", tickvals, ticktext: tickvals.map(String) };
  }

  function layout(drawn) {
    const [low, high] = measured(drawn), xs = drawn.flatMap(({ fits }) => fits.map((point) => point.x));
    const range = [low, high].map((end) => (state.yScale === "log" ? Math.log10(end) : end));
    const x = axes[state.x], { label } = quantities[state.quantity];
    const each = { tickmode: "array", tickvals: x.labels, ticktext: x.labels.map(plain) };
    const few = x.labels.length <= MOST_TICKS ? each : tickStep(state.xScale, Math.min(...xs), Math.max(...xs));
    const ticks = x.numeric ? few : { ...each, categoryorder: "array", categoryarray: x.labels };
    const axis = { automargin: true, gridcolor: "#e4e4e4", linecolor: "#8a8a8a", ticks: "outside", zeroline: false,
      exponentformat: "power" };
    return {
      xaxis: { ...axis, ...ticks, type: x.numeric ? state.xScale : "category",
        title: { text: `${plain(x.text)} ${plain(x.name)}` } },
      yaxis: { ...axis, ...tickStep(state.yScale, low, high), type: state.yScale,
        ...(range.every(Number.isFinite) ? { range } : {}),
        title: { text: plain(label) } },
      height: element("plot").clientHeight, margin: { l: 50, r: 10, t: 15, b: 40 }, hovermode: "closest",
      paper_bgcolor: "#fff", plot_bgcolor: "#fff",
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: false, itemdoubleclick: false },
      hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#595959", font: { color: "#1a1a1a", size: 12 } },
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: "#1a1a1a" },
    };
  }

  function describe(drawn) {
    const { name, text } = quantities[state.quantity];
    const at = Object.entries(state.held).map(([axis, label]) => `${axes[axis].name} = ${axes[axis].labels[label]}`);
    const held = [...at, ...(state.places === places ? [] : [`where ${figures[state.figure].where}`])];
    const points = drawn.flatMap((curve) => curve.points), fits = drawn.flatMap((curve) => curve.fits);
    const counts = points.map((point) => data.declared[point.place]);
    const count = [...new Set([Math.min(...counts), Math.max(...counts)])].join(" to ");
    const statistic = isMedian() ? "Median (line) and range (band)" : "Maximum";
    const sentences = fits.length
      ? [`${statistic} of ${count} trials of ${name}, ${text}, at ${held.join(", ")}.`]
      : [`Nothing to draw of ${name} at ${held.join(", ")}: choose other labels, lines or scales.`];
    const missing = drawn.length * axes[state.x].labels.length - points.length;
    if (missing) sentences.push(`${missing} points of these lines are not complete, or belong to no sweep.`);
    const without = points.length - fits.length;
    if (without) sentences.push(`${without} points that are not positive have no place on a logarithmic scale.`);
    element("caption").textContent = sentences.join(" ");
    const values = fits.map(({ value }) => value);
    const ends = fits.length ? `, from ${Math.min(...values)} to ${Math.max(...values)}` : "";
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
    const cell = (tag) => (value, i) => make(tag, { className: i ? "number" : "" }, String(value));
    const more = rows.length > MOST_ROWS ? `, the first ${MOST_ROWS} of ${rows.length} rows` : "";
    element("table").replaceChildren(
      make("caption", {}, `${quantities[state.quantity].name}${more}`),
      make("thead", {}, make("tr", {}, ...head.map(cell("th")))),
      make("tbody", {}, ...rows.slice(0, MOST_ROWS).map((row) => make("tr", {}, ...row.map(cell("td"))))));
  }

  function draw() {
    const drawn = curves(), made = traces(drawn);
    element("plot").style.setProperty("--entries", made.filter((trace) => trace.showlegend).length);
    Plotly.react(element("plot"), made, layout(drawn), { responsive: true, displayModeBar: false });
    describe(drawn);
    tabulate(drawn);
    if (element("bound")) element("bound").disabled = !hasBound();
    if (element("theory")) element("theory").disabled = !theorems().length;
    if (figures.length) element("figure").value = state.figure;
  }

  element("controls").addEventListener("submit", (event) => event.preventDefault());
  element("controls").append(...["what", "which", "held"].map((id) => make("fieldset", { id })));
  element("save").addEventListener("click", () => Plotly.downloadImage(element("plot"), { format: "svg", width: 900,
    height: 560, filename: `${quantities[state.quantity].name}-against-${axes[state.x].name}` }));
  const figures = data.figures.filter(adopt);
  if (figures.length) {
    state.figure = 0;
    adopt(figures[0]);
  } else {
    Object.assign(state, { x: axes.indexOf(xAxes[0]), quantity: 0, statistic: "median", beside: [] });
    chooseLines();
    [state.xScale, state.yScale] = [scaleOfX(), scaleOfY()];
    holdBest({});
  }
  show();
})();
