// Every method against a baseline, run by run: the mean of the paired differences with its interval.

const differenceMetric = choices("difference-metric", [...new Set(DATA.differences.map((entry) => entry.metric))].map((i) => [i, metrics[i].label]), () => drawDifferences(true));
const differenceBaseline = choices("difference-baseline", [], () => drawDifferences());
const TOO_FEW = "too few pairs";
const signed = (hundredths, digits = 1) => (hundredths > 0 ? "+" : "") + percent(hundredths, digits);
const chance = (p) => (p === null ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));

function differencePanel(s, rows, low, high) {
  const place = (value) => `${(2 + (96 * (Math.max(low, Math.min(high, value)) - low)) / (high - low)).toFixed(2)}%`;
  const plot = (row) => draw("svg", { "aria-hidden": "true" },
    draw("line", { x1: place(0), x2: place(0), y1: 0, y2: 14, stroke: "var(--soft)" }),
    row.low === null ? null : draw("line", { x1: place(row.low), x2: place(row.high), y1: 7, y2: 7, stroke: "var(--ink)", "stroke-width": 1.5 }),
    draw("svg", { x: place(row.difference), y: 7, overflow: "visible", width: 1, height: 1 }, mark(row.m, 0, 0, 3.6)));
  const alike = rows.every((row) => row.verdict === rows[0].verdict);  // a verdict that all rows share stands above them
  return make("figure", { class: "panel" },
    make("h3", {}, settings[s].name),
    make("p", { class: "note" }, `points of percent · ${alike ? `every verdict: ${rows[0].verdict} · ` : ""}${settings[s].protocol[0] ?? ""}`),
    make("table", { class: "groups" },
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "method"), make("th", { class: "plot" }, `${signed(low, 0)} to ${signed(high, 0)}`),
        make("th", { scope: "col", class: "number" }, "difference"), make("th", { scope: "col", class: "number" }, "95 % interval"), make("th", { scope: "col", class: "number" }, "pairs"),
        alike && rows[0].verdict === TOO_FEW ? null : make("th", { scope: "col" }, alike ? "p (Holm)" : "verdict, p (Holm)"))),
      make("tbody", {}, rows.map((row) => make("tr", {},
        make("th", { scope: "row" }, swatch(row.m), " ", methods[row.m].name),
        make("td", { class: "plot" }, plot(row)),
        make("td", { class: "number" }, signed(row.difference)),
        make("td", { class: "number sd" }, row.low === null ? "–" : `${percent(row.low)} to ${percent(row.high)}`),
        make("td", { class: "number" }, row.pairs),
        alike && row.verdict === TOO_FEW ? null : make("td", {}, alike ? "" : row.verdict, make("span", { class: "sd" }, row.verdict === TOO_FEW ? "" : ` p ${chance(row.p)}`)))))));
}

function drawDifferences(anew = false) {
  const metric = Number(differenceMetric.value);
  const entries = DATA.differences.filter((entry) => entry.metric === metric);
  if (anew || !differenceBaseline.childElementCount) {
    const before = differenceBaseline.value;
    differenceBaseline.replaceChildren(...entries.map((entry) => option(entry.baseline, methods[entry.baseline].name)));
    if (entries.some((entry) => String(entry.baseline) === before)) differenceBaseline.value = before;
  }
  const entry = entries.find((candidate) => candidate.baseline === Number(differenceBaseline.value));
  const visible = new Set(shownMethods());
  const rows = (entry?.rows ?? []).filter((row) => visible.has(row.m) && shown.settings.has(row.s));
  const edges = [0, ...rows.flatMap((row) => [row.difference, row.difference])].concat(rows.filter((row) => row.low !== null && row.pairs > 2).flatMap((row) => [row.low, row.high]));
  const reach = (value) => Math.sign(value) * Math.ceil(Math.abs(value) / 500) * 500;
  const [low, high] = [reach(Math.min(...edges, -100)), reach(Math.max(...edges, 100))];
  const sign = metrics[metric]?.lower ? 1 : -1;
  const panels = shownSettings().map((s) => [s, rows.filter((row) => row.s === s).sort((a, b) => sign * (a.difference - b.difference))]).filter(([, found]) => found.length);
  byId("difference-panels").replaceChildren(...(panels.length ? panels.map(([s, found]) => differencePanel(s, found, low, high))
    : [nothing("No two methods shown have finished runs of equal stream and seeds.")]));
  byId("difference-note").textContent = !entry ? "" :
    `Mean over pairs of (method − ${methods[entry.baseline].name})${metrics[metric].lower ? "; lower is better" : ""}. A pair: two runs of equal stream and seeds (${DATA.seeds}). ` +
    `Interval: ${entry.intervals.join(" or ")}, one comparison at a time. p: ${entry.tests.join(" or ")} test, two-sided, Holm's correction over the ${entry.rows.length} rows of this baseline; ` +
    "“too few pairs”: even the smallest p that so many pairs can give would be above 0.05. Bars end at the scale’s edge where an interval is wider.";
}
sections.push(() => drawDifferences());
