// What all sections share: the data, what is shown, elements, marks, numbers. Text reaches the page as text nodes only.

const DATA = JSON.parse(document.getElementById("data").textContent);
const { methods, settings, metrics, cells, results, runs } = DATA;
const byId = (id) => document.getElementById(id);
const key = (m, s) => `${m},${s}`;
const cellAt = new Map(cells.map((cell) => [key(cell.m, cell.s), cell]));
const resultsAt = new Map();
results.forEach((result) => {
  const k = key(result.m, result.s);
  resultsAt.set(k, [...(resultsAt.get(k) ?? []), result]);
});

// What the reader chose; `render` draws every section again.
const SETTINGS_AT_FIRST = 8;
const shown = {
  methods: new Set(methods.keys()),
  settings: new Set([...settings.keys()].slice(0, SETTINGS_AT_FIRST)),
  query: "",
};
const sections = [];
const render = () => sections.forEach((draw) => draw());
const isFound = (m) => methods[m].name.toLowerCase().includes(shown.query.toLowerCase());
const shownSettings = () => [...settings.keys()].filter((s) => shown.settings.has(s));
const shownMethods = () => ranking.filter((m) => shown.methods.has(m) && isFound(m));

// --- elements

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const option = (value, label) => make("option", { value }, label);

// --- numbers: the data hold hundredths of a percent

const MINUS = "\u2212";
const fixed = (value, digits) => {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", MINUS);
};
const percent = (hundredths, digits = 1) => (hundredths === null ? "–" : fixed(hundredths / 100, digits));
const isNumber = (value) => typeof value === "number";
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const deviation = (values) => {
  const centre = mean(values);
  return values.length > 1 ? Math.sqrt(values.reduce((a, b) => a + (b - centre) ** 2, 0) / (values.length - 1)) : null;
};
const plusMinus = ({ mean: centre, sd }, digits = 1) =>
  percent(centre, digits) + (sd === null ? "" : ` ± ${percent(sd, digits)}`);
const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

function ticks(low, high, wanted) {
  const raw = Math.max(high - low, 1e-9) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

// The mean over the runs of a cell at every place of a series, with sd and n; null where no run has a value.
function average(series) {
  const length = Math.max(0, ...series.map((values) => values.length));
  return Array.from({ length }, (_, i) => {
    const values = series.map((v) => v[i]).filter(isNumber);
    return values.length ? { mean: mean(values), sd: deviation(values), n: values.length } : null;
  });
}
// The results of a cell that may be averaged.
const averaged = (m, s) => (cellAt.get(key(m, s))?.stats ? resultsAt.get(key(m, s)) ?? [] : []);

// --- how a method looks: colour and mark as in the figures (benchmark.palette)

const COLOURS = 10;
const DASHES = [null, "5 2", "1.5 1.5", "6 2 1.5 2"];
const MARKS = [
  (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `M0 ${-1.2 * r}L${1.15 * r} ${0.9 * r}H${-1.15 * r}z`,
  (r) => `M0 ${-1.3 * r}L${1.3 * r} 0L0 ${1.3 * r}L${-1.3 * r} 0z`,
  (r) => `M0 ${1.2 * r}L${1.15 * r} ${-0.9 * r}H${-1.15 * r}z`,
  (r) => `M${-r / 2.4} ${-1.2 * r}h${r / 1.2}v${0.8 * r}h${0.8 * r}v${r / 1.2}h${-0.8 * r}v${0.8 * r}h${-r / 1.2}v${-0.8 * r}h${-0.8 * r}v${-r / 1.2}h${0.8 * r}z`,
  (r) => `M0 ${-r / 2.2}L${r / 1.5} ${-1.1 * r}L${1.1 * r} ${-r / 1.5}L${r / 2.2} 0L${1.1 * r} ${r / 1.5}L${r / 1.5} ${1.1 * r}L0 ${r / 2.2}L${-r / 1.5} ${1.1 * r}L${-1.1 * r} ${r / 1.5}L${-r / 2.2} 0L${-1.1 * r} ${-r / 1.5}L${-r / 1.5} ${-1.1 * r}z`,
  (r) => `M${-1.2 * r} 0L${0.9 * r} ${-1.15 * r}V${1.15 * r}z`,
  (r) => `M${1.2 * r} 0L${-0.9 * r} ${-1.15 * r}V${1.15 * r}z`,
  (r) => `M0 ${-1.4 * r}L${0.4 * r} ${-0.45 * r}L${1.35 * r} ${-0.4 * r}L${0.6 * r} ${0.25 * r}L${0.85 * r} ${1.2 * r}L0 ${0.65 * r}L${-0.85 * r} ${1.2 * r}L${-0.6 * r} ${0.25 * r}L${-1.35 * r} ${-0.4 * r}L${-0.4 * r} ${-0.45 * r}z`,
  (r) => `M0 ${-1.4 * r}L${0.8 * r} 0L0 ${1.4 * r}L${-0.8 * r} 0z`,
];
const look = (m) => {
  const { style } = methods[m];
  const again = Math.floor(style / COLOURS);
  return { colour: `var(--c${style % COLOURS})`, dash: DASHES[again % DASHES.length], mark: MARKS[style % MARKS.length], hollow: again > 0 };
};
function mark(m, x, y, r = 3) {
  const { colour, mark: shape, hollow } = look(m);
  return draw("path", {
    d: shape(r), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, stroke: hollow ? colour : "var(--paper)", "stroke-width": hollow ? 1.1 : 0.6,
    fill: hollow ? "var(--paper)" : colour,
  });
}
function swatch(m) {
  const { colour, dash } = look(m);
  return draw("svg", { class: "swatch", width: 22, height: 10, viewBox: "0 0 22 10", "aria-hidden": "true" },
    draw("line", { x1: 0, x2: 22, y1: 5, y2: 5, stroke: colour, "stroke-width": 1.6, "stroke-dasharray": dash }), mark(m, 11, 5, 3.2));
}

// --- the box with values beside pointer or cursor

const tip = byId("tip");
function showTip(x, y, ...content) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth - 6 ? x - 14 - width : x + 14;
  tip.style.left = `${Math.max(6, Math.min(left, innerWidth - width - 6))}px`;
  tip.style.top = `${Math.max(6, Math.min(y - height / 2, innerHeight - height - 6))}px`;
}
const hideTip = () => { tip.hidden = true; };
addEventListener("scroll", hideTip, { passive: true });

// One focusable chart whose places (steps, classes, cells) are read by pointer or by arrow keys.
function readable(element, { label, places, at, move, describe, show, hide }) {
  let place = null;
  const go = (next, event) => {
    if (next === null) return;
    place = next;
    element.setAttribute("aria-valuenow", place);
    element.setAttribute("aria-valuetext", describe(place));
    show(place, event);
  };
  fill(element, {
    tabindex: 0, role: "slider", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": places - 1, "aria-valuenow": 0,
    "aria-valuetext": "arrow keys read the values",
    pointermove: (event) => go(at(event), event),
    pointerdown: (event) => go(at(event), event),
    pointerleave: () => { hide(); hideTip(); },
    focus: () => { if (element.matches(":focus-visible")) go(place ?? 0); },
    blur: () => { hide(); hideTip(); },
    keydown: (event) => {
      if (event.key === "Escape") { hide(); hideTip(); return; }
      const next = move(place ?? 0, event.key);
      if (next === null) return;
      event.preventDefault();
      go(next);
    },
  }, []);
  return element;
}
const along = (length) => (place, pressed) =>
  ({ ArrowLeft: Math.max(0, place - 1), ArrowRight: Math.min(length - 1, place + 1), Home: 0, End: length - 1 })[pressed] ?? null;

// --- what is shown

// What a method is above the mean of a column, averaged over columns (functions method -> value): runs in a hard setting
// more make none worse. Null without a value.
function aboveMeans(columns, shown) {
  const means = columns.map((value) => mean(shown.map(value).filter(isNumber)));
  return (m) => {
    const above = columns.map((value, i) => value(m) - means[i]).filter((difference) => !Number.isNaN(difference));
    return above.length ? mean(above) : null;
  };
}

// Methods, best first, over all settings of a metric.
function ranked(metricIndex) {
  const columns = [...settings.keys()].map((s) => (m) => cellAt.get(key(m, s))?.stats?.[metricIndex]?.[0]);
  const above = aboveMeans(columns, [...methods.keys()]);
  const score = (m) => (above(m) === null ? Infinity : above(m) * (metrics[metricIndex].lower ? 1 : -1));
  return [...methods.keys()]
    .map((m) => [metricIndex === undefined ? 0 : score(m), m])
    .sort(([a, i], [b, j]) => (a === b ? methods[i].name.localeCompare(methods[j].name) : a - b))
    .map(([, m]) => m);
}
const ranking = ranked(metrics.length ? 0 : undefined);

function chips(box, items, chosen, label) {
  items.forEach((i) => {
    const input = make("input", { type: "checkbox", change: () => { input.checked ? chosen.add(i) : chosen.delete(i); render(); } });
    input.checked = chosen.has(i);
    const chip = make("label", { class: "chip", "data-i": i }, input, ...label(i));
    for (const [event, m] of [["pointerenter", i], ["pointerleave", null], ["focusin", i], ["focusout", null]])
      if (box.id === "method-chips") chip.addEventListener(event, () => highlight(m));
    box.append(chip);
  });
}
// Lines of the other methods fade while a method is pointed at.
function highlight(m) {
  for (const line of document.querySelectorAll(".chart [data-m]"))
    line.classList.toggle("dim", m !== null && shown.methods.has(m) && Number(line.dataset.m) !== m);
}
chips(byId("method-chips"), ranking, shown.methods, (m) => [swatch(m), methods[m].name]);
chips(byId("setting-chips"), [...settings.keys()], shown.settings, (s) => [settings[s].name]);

const choose = (wanted) => {
  shown.methods.clear();
  wanted.forEach((m) => shown.methods.add(m));
  render();
};
byId("all").addEventListener("click", () => choose(ranking));
byId("none").addEventListener("click", () => choose([]));
byId("best").addEventListener("click", () => choose(ranking.filter(isFound).slice(0, 5)));
byId("query").addEventListener("input", (event) => { shown.query = event.target.value; render(); });
if (matchMedia("(max-width: 640px)").matches) byId("shown").open = false;
new ResizeObserver(() => {  // what is scrolled to, by a link or by Tab, stays clear of the panel that sticks to the top
  document.documentElement.style.scrollPaddingTop = `${byId("shown").offsetHeight + 12}px`;
}).observe(byId("shown"));

sections.push(() => {
  for (const chip of byId("method-chips").querySelectorAll(".chip")) {
    chip.hidden = !isFound(Number(chip.dataset.i));
    chip.querySelector("input").checked = shown.methods.has(Number(chip.dataset.i));
  }
  byId("shown-count").textContent =
    `${shownMethods().length} of ${count(methods.length, "method")}, ${shown.settings.size} of ${count(settings.length, "setting")}`;
});

// A select of settings or metrics; `changed` draws the section again.
function choices(id, entries, changed) {
  const select = byId(id);
  select.append(...entries.map(([value, label]) => option(value, label)));
  select.addEventListener("change", changed);
  return select;
}
const settingChoices = settings.map((setting, s) => [s, setting.name]);
const metricChoices = metrics.map((metric, i) => [i, metric.label]);
const nothing = (why) => make("p", { class: "note" }, why);
