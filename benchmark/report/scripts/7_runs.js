// Every run: state, seeds, main result; and on request its protocol, environment and failure.

const PAGE = 100;
let listed = PAGE;
const runQuery = byId("run-query");
const runState = choices("run-state", Object.keys(DATA.states).map((state) => [state, state]), () => { listed = PAGE; drawRuns(); });
runQuery.addEventListener("input", () => { listed = PAGE; drawRuns(); });
byId("run-more").addEventListener("click", () => { listed = Infinity; drawRuns(); });

const resultsOfRun = new Map();
results.forEach((result) => resultsOfRun.set(result.run, [...(resultsOfRun.get(result.run) ?? []), result]));
const runWords = runs.map((run) =>
  [run.name, run.state, run.method, settings[run.s]?.name ?? "", run.failure ?? "", ...run.problems].join(" ").toLowerCase());

const facts = (entries) => make("dl", { class: "facts" }, Object.entries(entries).map(([name, value]) =>
  make("div", {}, make("dt", {}, name), make("dd", {}, value))));

function runDetails(i) {
  const run = runs[i];
  const stream = DATA.streams[run.stream];
  const found = resultsOfRun.get(i) ?? [];
  const part = (title, ...content) => [make("h4", {}, title), ...content];
  return [
    run.problems.length ? part("Problems", make("ul", { class: "failures" }, run.problems.map((problem) => make("li", {}, problem)))) : [],
    run.failure ? part(`Failure${run.attempt ? `, attempt ${run.attempt}` : ""}`, make("p", { class: "bad" }, run.failure),
      run.traceback ? make("pre", { tabindex: 0 }, run.traceback) : null) : [],
    found.length ? part("Results, in percent", make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Results of ${run.name}` },
      make("table", { class: "list" },
        make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "metric"), found.map((result) => make("th", { scope: "col", class: "number" }, result.classifier)))),
        make("tbody", {}, metrics.map((metric, j) => make("tr", {}, make("th", { scope: "row" }, metric.label), found.map((result) => make("td", { class: "number" }, percent(result.values[j], 2))))))))) : [],
    part("Protocol", facts({ ...Object.fromEntries(Object.entries(run.seeds).map(([name, value]) => [`${name} seed`, value])), ...(DATA.configs[run.config] ?? {}) })),
    stream ? part("Stream", facts({ experiences: stream.sizes.length, "classes per experience": stream.sizes.join(", "),
      "training images per class": `${Math.max(...stream.images)} to ${Math.min(...stream.images)}` })) : [],
    run.environment === null ? [] : part("Environment", facts(DATA.environments[run.environment])),
  ].flat();
}

function runRow(i) {
  const run = runs[i];
  const found = resultsOfRun.get(i) ?? [];
  const details = make("tr", { class: "details", id: `run-${i}`, hidden: true });
  const toggle = make("button", { type: "button", "aria-expanded": "false", "aria-controls": `run-${i}`, "aria-label": `Details of ${run.name}` , click: () => {
    if (details.hidden && !details.childElementCount) details.append(make("td", { colspan: 6 }, ...runDetails(i)));
    details.hidden = !details.hidden;
    toggle.setAttribute("aria-expanded", String(!details.hidden));
  } }, "details");
  const seeds = Object.entries(run.seeds).map(([name, value]) => `${name} ${value}`).join(", ");
  const outcome = found.length ? found.map((result) => `${percent(result.values[0], 2)}${found.length > 1 ? ` ${result.classifier}` : ""}`).join(", ")
    : run.failure ?? (run.progress ? `${run.progress} experiences` : "");
  return [make("tr", {},
    make("th", { scope: "row" }, run.name),
    make("td", {}, make("i", { class: `dot ${run.state}` }), run.state, run.problems.length ? make("span", { class: "partial" }, ` · ${count(run.problems.length, "problem")}`) : null),
    make("td", {}, settings[run.s]?.name ?? "–"),
    make("td", {}, seeds),
    make("td", { class: found.length ? "number" : "bad" }, outcome),
    make("td", {}, toggle)), details];
}

function drawRuns() {
  const query = runQuery.value.toLowerCase();
  const wanted = [...runs.keys()].filter((i) => runWords[i].includes(query) && (!runState.value || runs[i].state === runState.value));
  const header = ["run", "state", "setting", "seeds", metrics[0]?.label ?? "result", ""];
  byId("run-table").replaceChildren(
    make("thead", {}, make("tr", {}, header.map((label, i) => make("th", { scope: "col", class: i === 4 ? "number" : null }, label || make("span", {}, "\u00a0"))))),
    make("tbody", {}, wanted.slice(0, listed).flatMap(runRow)));
  byId("run-count").textContent = `${wanted.length} of ${count(runs.length, "run")}${wanted.length > listed ? `, the first ${listed} listed` : ""}.`;
  byId("run-more").hidden = wanted.length <= listed;
  byId("run-more").textContent = `List all ${wanted.length}`;
}
drawRuns();

render();
byId("app").hidden = false;
