// The leaderboard: methods by settings for one metric, or by metrics for one setting.

const board = { sort: null, descending: true };
const boardMode = choices("board-mode", [], () => { board.sort = null; drawBoard(); });
const boardMetric = choices("board-metric", metricChoices, () => { board.sort = null; drawBoard(); });
const boardSetting = choices("board-setting", settingChoices, () => { board.sort = null; drawBoard(); });
const boardSort = choices("board-sort", [], () => sortBoard(boardSort.value));

// Columns of the table: {id, label, lower, find: method -> cell, stats: cell -> [mean, sd, n], values: m -> per run}.
function boardColumns() {
  const column = (id, label, i, s) => ({
    id, label, s, lower: metrics[i].lower,
    find: (m) => cellAt.get(key(m, s)),
    stats: (m) => cellAt.get(key(m, s))?.stats?.[i] ?? null,
    values: (m) => averaged(m, s).map((result) => result.values[i]).filter(isNumber),
  });
  if (!metrics.length) return [];
  if (boardMode.value === "metrics")
    return metrics.map((metric, i) => column(`metric${i}`, metric.label, i, Number(boardSetting.value)));
  return shownSettings().map((s) => column(`setting${s}`, settings[s].name, Number(boardMetric.value), s));
}

function sortBoard(id) {
  board.descending = board.sort === id ? !board.descending : !boardColumns().find((c) => c.id === id)?.lower && id !== "name";
  board.sort = id;
  drawBoard();
}

// All columns shown sort "one metric, all settings" at first.
function boardOrder(columns) {
  const column = columns.find((c) => c.id === board.sort);
  const above = aboveMeans(columns.map((c) => (m) => c.stats(m)?.[0]), shownMethods());
  const score = (m) => (board.sort === "mean" ? above(m) : column?.stats(m)?.[0] ?? null);
  const sign = board.descending ? -1 : 1;
  return shownMethods().sort((a, b) => {
    if (board.sort === "name") return sign * methods[a].name.localeCompare(methods[b].name);
    const [x, y] = [score(a), score(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return x === y ? methods[a].name.localeCompare(methods[b].name) : sign * (x - y);
  });
}

// Every run of a cell as a tick, their mean as a dot, on the scale of the column.
function strip(values, low, high) {
  const place = (value) => `${(high > low ? 2 + (96 * (value - low)) / (high - low) : 50).toFixed(1)}%`;
  return draw("svg", { class: "strip", "aria-hidden": "true" },
    draw("line", { class: "base", x1: "0%", x2: "100%", y1: 3.5, y2: 3.5 }),
    values.map((value) => draw("line", { x1: place(value), x2: place(value), y1: 0, y2: 7 })),
    draw("circle", { cx: place(mean(values)), cy: 3.5, r: 2.2 }));
}

function boardCell(column, m, low, high) {
  const cell = column.find(m);
  const attributes = { class: "number", "data-label": column.label };
  if (!cell) return make("td", attributes, "–");
  const stats = column.stats(m);
  const content = [];
  if (cell.why) content.push(make("span", { class: "partial" }, "not averaged"));
  else if (!stats) content.push("–");
  else content.push(fixed(stats[0], 2), stats[1] === null ? null : make("span", { class: "sd" }, ` ± ${fixed(stats[1], 2)}`));
  if (cell.done < cell.expected)
    content.push(make("span", { class: "partial" }, ` ${cell.done}/${cell.expected}${cell.failed ? `, ${cell.failed} failed` : ""}`));
  const values = column.values(m);
  if (values.length > 1) content.push(strip(values, low, high));
  return make("td", attributes, ...content);
}

function drawBoard() {
  const settingsMode = boardMode.value === "settings";
  byId("board-metric-label").hidden = !settingsMode;
  byId("board-setting-label").hidden = settingsMode;
  const columns = boardColumns();
  const sortable = [...(settingsMode && columns.length > 1 ? [["mean", "all settings"]] : []), ...columns.map((c) => [c.id, c.label]), ["name", "name"]];
  if (!sortable.some(([id]) => id === board.sort)) {
    board.sort = sortable[0][0];
    board.descending = board.sort !== "name" && !(columns[0]?.lower ?? false);
  }
  boardSort.replaceChildren(...sortable.map(([id, label]) => option(id, label)));
  boardSort.value = board.sort;

  const metric = metrics[Number(boardMetric.value)];
  const order = boardOrder(columns);
  const header = (id, label, attributes) =>
    make("th", { scope: "col", "aria-sort": board.sort === id ? (board.descending ? "descending" : "ascending") : "none", ...attributes },
      make("button", { type: "button", click: () => { sortBoard(id); byId("board").querySelector(`[data-sort="${id}"]`)?.focus(); }, "data-sort": id },
        label, board.sort === id ? (board.descending ? " ↓" : " ↑") : ""));
  const scales = columns.map((column) => {
    const values = order.flatMap((m) => column.values(m));
    return [Math.min(...values), Math.max(...values)];
  });
  const caption = settingsMode ? `${metric?.title || metric?.label || ""}. In percent: mean ± standard deviation over the runs of a cell.`
    : `${settings[Number(boardSetting.value)]?.name ?? ""}. In percent: mean ± standard deviation over the runs of a cell.`;
  byId("board-caption").textContent = caption;
  byId("board").replaceChildren(
    !columns.length ? nothing("There is no finished run to show.") : make("table", { class: "board" },
      make("thead", {}, make("tr", {}, make("th", { class: "rank", scope: "col" }, "#"), header("name", "method"), columns.map((c) => header(c.id, c.label, { class: "number" })))),
      make("tbody", {}, order.map((m, place) => make("tr", {},
        make("td", { class: "rank" }, place + 1),
        make("th", { scope: "row" }, swatch(m), " ", methods[m].name),
        columns.map((column, i) => boardCell(column, m, ...scales[i])))))),
  );
  const ns = [...new Set(order.flatMap((m) => columns.map((c) => c.stats(m)?.[2]).filter(isNumber)))].sort((a, b) => a - b);
  const notes = [`n = ${ns.length > 1 ? `${ns[0]} to ${ns.at(-1)}` : ns[0] ?? 0} runs a cell (${DATA.seeds}); ticks: single runs; dot: their mean; a column has one scale.`];
  if (order.some((m) => columns.some((c) => { const cell = c.find(m); return cell && cell.done < cell.expected; })))
    notes.push("a/b: a of the b runs of this cell are finished.");
  if (order.some((m) => columns.some((c) => c.find(m)?.why))) notes.push("not averaged: the runs of this cell are no repeats of each other; the overview says why.");
  byId("board-notes").replaceChildren(...[...notes, ...protocolOf(settingsMode ? shownSettings() : [Number(boardSetting.value)])].map((line) => make("p", {}, line)));
}
// The protocol of one setting, or that of all results.
const protocolOf = (wanted) => (wanted.length === 1 ? settings[wanted[0]]?.protocol ?? [] : DATA.protocol);
sections.push(drawBoard);
