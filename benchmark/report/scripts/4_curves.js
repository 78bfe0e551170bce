// Metrics against the number of classes seen: a panel per setting, a line per method.

const curveMetric = choices("curve-metric", DATA.curves.map(({ key: name, label }) => [name, label]), () => drawCurves());
const curveBands = byId("curve-bands");
curveBands.addEventListener("change", () => drawCurves());

// Points of one method in one setting: [{x, mean, sd, n}], runs grouped by the number of classes seen.
function curvePoints(m, s, metric) {
  const groups = new Map();
  for (const result of averaged(m, s)) {
    const steps = DATA.steps[result.steps] ?? [];
    (result.curves[metric] ?? []).forEach((value, i) => {
      if (isNumber(value) && isNumber(steps[i])) groups.set(steps[i], [...(groups.get(steps[i]) ?? []), value]);
    });
  }
  return [...groups].sort(([a], [b]) => a - b).map(([x, values]) => ({ x, mean: mean(values), sd: deviation(values), n: values.length }));
}

const runsBehind = (lines) => {
  const ns = lines.flatMap((line) => line.points.map((point) => point.n));
  const [low, high] = [Math.min(...ns), Math.max(...ns)];
  return ns.length ? `n = ${low === high ? low : `${low} to ${high}`} runs` : "";
};

function curvePanel(s, lines, low, high, label) {
  const narrow = innerWidth < 500;
  const width = narrow ? 360 : 520, height = narrow ? 250 : 300, left = 34, right = 8, top = 8, bottom = 34;
  const steps = [...new Set(lines.flatMap((line) => line.points.map((point) => point.x)))].sort((a, b) => a - b);
  const [first, last] = [steps[0], steps.at(-1)];
  const x = (value) => left + 6 + (last > first ? ((value - first) / (last - first)) * (width - left - right - 12) : 0);
  const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const svg = draw("svg", { class: "chart", viewBox: `0 0 ${width} ${height}` });
  for (const tick of ticks(low / 100, high / 100, 5))
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(100 * tick), y2: y(100 * tick) }),
      draw("text", { x: left - 5, y: y(100 * tick) + 4, "text-anchor": "end" }, fixed(tick, 0)));
  svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  const labelled = steps.filter((_, i) => i % Math.ceil(steps.length / 12) === 0);
  for (const step of labelled)
    svg.append(draw("line", { class: "axis", x1: x(step), x2: x(step), y1: height - bottom, y2: height - bottom + 4 }),
      draw("text", { x: x(step), y: height - bottom + 16, "text-anchor": "middle" }, step));
  svg.append(draw("text", { x: width - right, y: height - 4, "text-anchor": "end" }, "classes seen"));
  const cursor = draw("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  svg.append(cursor);
  for (const { m, points } of [...lines].reverse()) {  // the best method is drawn last, on top
    const { colour, dash } = look(m);
    const group = draw("g", { "data-m": m });
    if (curveBands.checked && points.some((point) => point.sd !== null)) {
      const edge = (sign) => points.map((point) => `${x(point.x).toFixed(1)} ${y(point.mean + sign * (point.sd ?? 0)).toFixed(1)}`);
      group.append(draw("path", { d: `M${[...edge(1), ...edge(-1).reverse()].join("L")}z`, fill: colour, opacity: 0.13 }));
    }
    group.append(draw("path", {
      d: `M${points.map((point) => `${x(point.x).toFixed(1)} ${y(point.mean).toFixed(1)}`).join("L")}`, fill: "none", stroke: colour,
      "stroke-width": 1.6, "stroke-dasharray": dash,
    }), ...(points.length <= 30 ? points : [points[0], points.at(-1)]).map((point) => mark(m, x(point.x), y(point.mean))));
    svg.append(group);
  }
  const valuesAt = (step) => lines
    .map(({ m, points }) => [m, points.find((point) => point.x === step)])
    .filter(([, point]) => point)
    .sort(([, a], [, b]) => b.mean - a.mean);
  return readable(svg, {
    label: `${label}, ${settings[s].name}, by classes seen`,
    places: steps.length,
    at: (event) => {
      const box = svg.getBoundingClientRect();
      const place = ((event.clientX - box.left) / box.width) * width;
      return steps.reduce((best, step, i) => (Math.abs(x(step) - place) < Math.abs(x(steps[best]) - place) ? i : best), 0);
    },
    move: along(steps.length),
    describe: (i) => `${steps[i]} classes seen: ${valuesAt(steps[i]).map(([m, point]) => `${methods[m].name} ${plusMinus(point)}`).join(", ")}`,
    show: (i, event) => {
      const box = svg.getBoundingClientRect();
      cursor.setAttribute("visibility", "visible");
      cursor.setAttribute("x1", x(steps[i]));
      cursor.setAttribute("x2", x(steps[i]));
      showTip(box.left + (x(steps[i]) / width) * box.width, event?.clientY ?? box.top + box.height / 2,
        make("div", {}, `${steps[i]} classes seen`),
        make("table", {}, make("tbody", {}, valuesAt(steps[i]).map(([m, point]) =>
          make("tr", {}, make("td", {}, swatch(m), " ", methods[m].name), make("td", {}, plusMinus(point)))))));
    },
    hide: () => cursor.setAttribute("visibility", "hidden"),
  });
}

function drawCurves() {
  const metric = curveMetric.value;
  const label = DATA.curves.find((curve) => curve.key === metric)?.label ?? "";
  const panels = shownSettings()
    .map((s) => [s, shownMethods().map((m) => ({ m, points: curvePoints(m, s, metric) })).filter((line) => line.points.length)])
    .filter(([, lines]) => lines.length);
  const edges = panels.flatMap(([, lines]) => lines.flatMap((line) => line.points.flatMap((point) => {
    const sd = curveBands.checked ? point.sd ?? 0 : 0;
    return [point.mean - sd, point.mean + sd];
  })));
  const [lowest, highest] = [Math.min(...edges), Math.max(...edges)];
  const margin = 0.04 * Math.max(highest - lowest, 100);
  byId("curve-panels").replaceChildren(...(panels.length ? panels.map(([s, lines]) =>
    make("figure", { class: "panel" },
      make("h3", {}, settings[s].name),
      make("p", { class: "note" }, [label, "in percent", runsBehind(lines), ...settings[s].protocol.slice(0, 1)].join(" · ")),
      curvePanel(s, lines, lowest - margin, highest + margin, label)))
    : [nothing("No method shown has this curve.")]));
  byId("curve-note").textContent =
    `Lines: mean over the runs of a cell${curveBands.checked ? "; bands: ± 1 standard deviation (n − 1)" : ""}. One scale for all panels. ${protocolOf(shownSettings()).at(-1) ?? ""}`;
}
sections.push(drawCurves);
