// Many, medium and few; old and new; and every class by itself.

const groupKind = choices("group-kind", [], () => drawGroups());
const classSetting = choices("class-setting", settingChoices, () => drawClasses());
const classOrder = choices("class-order", [], () => drawClasses());

const GROUP_KINDS = {
  shots: [["many_accuracy", "many"], ["medium_accuracy", "medium"], ["few_accuracy", "few"]],
  age: [["old_accuracy", "old"], ["new_accuracy", "new"]],
};
const GROUP_MARKS = [
  { shape: MARKS[0], fill: "var(--ink)" }, { shape: MARKS[3], fill: "var(--soft)" }, { shape: MARKS[0], fill: "var(--paper)" },
];
const groupMark = (i, x) => draw("svg", { x, y: 7, overflow: "visible", width: 1, height: 1 },
  draw("path", { d: GROUP_MARKS[i].shape(3.6), fill: GROUP_MARKS[i].fill, stroke: "var(--ink)", "stroke-width": 1.1 }));

function groupPanel(s, kinds) {
  const places = kinds.map(([name]) => metrics.findIndex((metric) => metric.key === name));
  const rows = shownMethods()
    .map((m) => [m, places.map((i) => cellAt.get(key(m, s))?.stats?.[i] ?? null)])
    .filter(([, stats]) => stats.some(Boolean));
  if (!rows.length) return null;
  const shared = kinds.length === 3 ? GROUP_MARKS : [GROUP_MARKS[0], GROUP_MARKS[2]];
  const index = (i) => GROUP_MARKS.indexOf(shared[i]);
  const plot = (stats) => {
    const known = stats.filter(Boolean).map(([value]) => value);
    return draw("svg", { "aria-hidden": "true" },
      [0, 50, 100].map((tick) => draw("line", { x1: `${tick}%`, x2: `${tick}%`, y1: 0, y2: 14, stroke: "var(--rule)" })),
      draw("line", { x1: `${Math.min(...known)}%`, x2: `${Math.max(...known)}%`, y1: 7, y2: 7, stroke: "var(--soft)" }),
      stats.map((entry, i) => entry && groupMark(index(i), `${entry[0]}%`)));
  };
  const ns = [...new Set(rows.flatMap(([, stats]) => stats.filter(Boolean).map(([, , n]) => n)))].sort((a, b) => a - b);
  return make("figure", { class: "panel" },
    make("h3", {}, settings[s].name),
    make("p", { class: "note" }, `recall after the last experience, in percent · n = ${ns.length > 1 ? `${ns[0]} to ${ns.at(-1)}` : ns[0]} runs · ${settings[s].protocol[0] ?? ""}`),
    make("table", { class: "groups" },
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "method"), make("th", { class: "plot" }, "0 to 100"),
        kinds.map(([, label], i) => make("th", { scope: "col", class: "number" },
          draw("svg", { "aria-hidden": "true" }, groupMark(index(i), 5)), label)))),
      make("tbody", {}, rows.map(([m, stats]) => make("tr", {},
        make("th", { scope: "row" }, swatch(m), " ", methods[m].name),
        make("td", { class: "plot" }, plot(stats)),
        stats.map((entry) => make("td", { class: "number" }, entry ? fixed(entry[0], 1) : "–",
          entry && entry[1] !== null ? make("span", { class: "sd" }, ` ± ${fixed(entry[1], 1)}`) : null)))))));
}

function drawGroups() {
  const kinds = GROUP_KINDS[groupKind.value];
  const panels = shownSettings().map((s) => groupPanel(s, kinds)).filter(Boolean);
  byId("group-panels").replaceChildren(...(panels.length ? panels : [nothing("No method shown has these values.")]));
  const many = DATA.groups ? `many > ${DATA.groups[1]}, medium ${DATA.groups[0]} to ${DATA.groups[1]}, few < ${DATA.groups[0]} training images, before any hold-out` : "thresholds differ between runs";
  byId("group-note").textContent = groupKind.value === "shots" ? `Mean of the per-class recalls of each group: ${many}. ± is a standard deviation.`
    : "Accuracy on the classes of earlier experiences and of the newest one. ± is a standard deviation.";
}
sections.push(drawGroups);

// --- every class

// Places of the classes of one stream: arrival, or most training images first.
const classPlaces = (stream) => {
  const places = [...stream.images.keys()];
  return classOrder.value === "images" ? places.sort((a, b) => stream.images[b] - stream.images[a] || a - b) : places;
};
// What holds at one place for every stream of a cell: name, images, experience; null where they differ.
function classFacts(streams) {
  const same = (values) => (values.every((value) => value === values[0]) ? values[0] : null);
  const orders = streams.map(classPlaces);
  const ends = streams.map((stream) => stream.sizes.reduce((sums, size) => [...sums, (sums.at(-1) ?? 0) + size], []));
  return orders[0].map((_, i) => ({
    name: same(streams.map((stream, j) => stream.names[orders[j][i]] ?? null)),
    images: same(streams.map((stream, j) => stream.images[orders[j][i]])),
    experience: same(ends.map((end, j) => end.findIndex((e) => orders[j][i] < e))),
  }));
}
const classLabel = (fact, i) => [
  fact.name ?? `${classOrder.value === "images" ? "rank" : "arrival"} ${i + 1}`,
  fact.images === null ? null : count(fact.images, "training image"),
  fact.experience === null ? null : `experience ${fact.experience + 1}`,
].filter(Boolean).join(" · ");

function classPanel(m, s) {
  const found = averaged(m, s).filter((result) => result.recalls && runs[result.run].stream !== undefined);
  const size = found[0]?.recalls.length;
  const same = found.filter((result) => result.recalls.length === size);
  if (!same.length) return null;
  const streams = same.map((result) => DATA.streams[runs[result.run].stream]);
  const points = average(same.map((result, i) => classPlaces(streams[i]).map((place) => isNumber(result.recalls[place]) ? 10 * result.recalls[place] : null)));
  const facts = classFacts([...new Set(streams)]);
  const width = 340, height = 150, left = 26, right = 4, top = 6, bottom = 18;
  const x = (i) => left + ((i + 0.5) / size) * (width - left - right);
  const y = (value) => top + (1 - value / 10000) * (height - top - bottom);
  const svg = draw("svg", { class: "chart", viewBox: `0 0 ${width} ${height}` });
  const regions = classRegions(facts);
  regions.forEach(({ start, end, label }, i) => {
    if (i % 2 === 0) svg.append(draw("rect", { class: "region", x: x(start) - (x(1) - x(0)) / 2, width: (end - start) * (x(1) - x(0)), y: top, height: height - top - bottom }));
    if (regions.length <= 6) svg.append(draw("text", { x: (x(start) + x(end - 1)) / 2, y: height - 4, "text-anchor": "middle" }, label));
  });
  for (const tick of [0, 50, 100])
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(100 * tick), y2: y(100 * tick) }),
      draw("text", { x: left - 4, y: y(100 * tick) + 4, "text-anchor": "end" }, tick));
  const cursor = draw("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  const { colour } = look(m);
  const radius = Math.max(0.9, Math.min(2.4, 130 / size));
  points.forEach((point, i) => {
    if (point) svg.append(draw("circle", { cx: x(i).toFixed(1), cy: y(point.mean).toFixed(1), r: radius, fill: colour }));
  });
  for (const { start, end } of regions) {
    const level = points.slice(start, end).filter(Boolean).map((point) => point.mean);
    if (level.length) svg.append(draw("line", { class: "group", x1: x(start) - 1, x2: x(end - 1) + 1, y1: y(mean(level)), y2: y(mean(level)) }));
  }
  svg.append(cursor);
  const value = (i) => (points[i] ? `recall ${plusMinus(points[i])} (n = ${points[i].n})` : "no test images");
  readable(svg, {
    label: `Recall per class, ${methods[m].name}, ${settings[s].name}`,
    places: size,
    at: (event) => {
      const box = svg.getBoundingClientRect();
      const place = (((event.clientX - box.left) / box.width) * width - left) / (width - left - right);
      return Math.max(0, Math.min(size - 1, Math.floor(place * size)));
    },
    move: along(size),
    describe: (i) => `${classLabel(facts[i], i)}: ${value(i)}`,
    show: (i, event) => {
      const box = svg.getBoundingClientRect();
      cursor.setAttribute("visibility", "visible");
      cursor.setAttribute("x1", x(i));
      cursor.setAttribute("x2", x(i));
      showTip(box.left + (x(i) / width) * box.width, event?.clientY ?? box.top + box.height / 2, make("div", {}, classLabel(facts[i], i)), make("div", {}, value(i)));
    },
    hide: () => cursor.setAttribute("visibility", "hidden"),
  });
  return make("figure", { class: "panel" }, make("h3", {}, swatch(m), " ", methods[m].name),
    make("p", { class: "note" }, `n = ${same.length} run${same.length === 1 ? "" : "s"}`), svg);
}

// Stretches of the horizontal axis: many, medium and few, or experiences; [] where the runs disagree.
function classRegions(facts) {
  const byImages = classOrder.value === "images";
  const label = (fact) => {
    if (!byImages) return fact.experience === null ? null : `${fact.experience + 1}`;
    if (fact.images === null || !DATA.groups) return null;
    return fact.images > DATA.groups[1] ? "many" : fact.images >= DATA.groups[0] ? "medium" : "few";
  };
  const regions = [];
  facts.forEach((fact, i) => {
    const name = label(fact);
    if (regions.at(-1)?.label === name) regions.at(-1).end = i + 1;
    else regions.push({ label: name, start: i, end: i + 1 });
  });
  return regions.some((region) => region.label === null) ? [] : regions;
}

function drawClasses() {
  const s = Number(classSetting.value);
  const panels = settings.length ? shownMethods().map((m) => classPanel(m, s)).filter(Boolean) : [];
  byId("class-panels").replaceChildren(...(panels.length ? panels : [nothing("No finished run shown has per-class results in this setting.")]));
  byId("class-note").textContent = [
    "Recall of every class after the last experience, in percent: mean over the runs of a cell at the same place of the order; dashed: mean of each stretch.",
    classOrder.value === "images" ? "Head (most training images) left." : "Oldest experience left.",
    ...(settings[s]?.protocol ?? []),
  ].join(" ");
}
sections.push(drawClasses);
