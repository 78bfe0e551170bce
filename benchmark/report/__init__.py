"""`imcil report DIR`: one self-contained page, DIR/report.html, from the run folders alone.

Everything is in the file: data as JSON, style, script; its content security policy forbids loading anything, and
running any other script. Text from a results folder is escaped: by jinja2 in the page, as \\u003c and the like in the
JSON, and the script makes text nodes of it, never markup. Neither torch nor a plugin is imported, nothing unpickled.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmark.figures import palette
from benchmark.metrics.catalogue import WRITTEN, WRITTEN_MULTI
from benchmark.report.collect import collect
from benchmark.results.summary import all_runs, summarise_runs
from benchmark.storage.files import write_text

HERE = Path(__file__).parent
SECTIONS = {
    "overview": "Overview",
    "leaderboard": "Leaderboard",
    "differences": "Differences",
    "curves": "Curves",
    "groups": "Groups",
    "classes": "Classes",
    "confusion": "Confusion",
    "runs": "Runs",
}


def write_report(directory: str | Path) -> Path:
    """Write DIR/report.html and return its path.

    Raises
    ------
    UserError : DIR holds no results.
    """
    records = all_runs(directory)
    summary, curves = summarise_runs(records)
    path = Path(directory) / "report.html"
    write_text(path, page(collect(directory, records, summary, curves)))
    return path


def page(data: Mapping[str, Any]) -> str:
    """The page as HTML; `data` is from `collect`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    data = _clean(data)
    script = (
        "(() => {\n'use strict';\n"
        + "\n".join(p.read_text("utf-8") for p in sorted(HERE.glob("scripts/*.js")))
        + "})();\n"
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        data=data,
        tables=_static_tables(data),
        sections=SECTIONS.items(),
        missing=_missing(data),
        failures=_by_reason((run["failure"], run["name"]) for run in data["runs"] if run.get("failure")),
        faults=_by_reason((problem, run["name"]) for run in data["runs"] for problem in run["problems"]),
        refused=sorted({cell["why"] for cell in data["cells"] if "why" in cell}),
        version=version("imcil"),
        style=_style(),
        script=script,
        script_hash=f"sha256-{digest}",
        json=_json(data),
    )


def _static_tables(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Methods by settings for the main metrics, as text: what a reader without JavaScript sees."""
    found = []
    for i, metric in enumerate(data["metrics"]):
        if metric["key"] not in (*WRITTEN, *WRITTEN_MULTI):
            continue
        texts = {(cell["m"], cell["s"]): _cell_text(cell, i) for cell in data["cells"]}
        rows = [
            (method["name"], [texts.get((m, s), "–") for s in range(len(data["settings"]))])
            for m, method in enumerate(data["methods"])
        ]
        found.append({"title": metric["title"] or metric["label"], "rows": rows})
    return found


def _cell_text(cell: Mapping[str, Any], metric: int) -> str:
    """As in the printed tables: "45.12 ± 0.31", "(2/3)" behind it where runs are missing."""
    if "why" in cell:
        return "not averaged"
    stats = cell["stats"][metric] if "stats" in cell else None
    mean, sd, _ = stats or (None, None, 0)
    value = "–" if mean is None else f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {sd:.2f}"
    return value if cell["done"] == cell["expected"] else f"{value} ({cell['done']}/{cell['expected']})"


def _missing(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per method (without classifier) and setting that is not finished, with the states of the other runs."""
    states: dict[tuple[str, int], dict[str, int]] = {}
    for run in data["runs"]:
        if run["s"] is not None:
            counted = states.setdefault((run["method"], run["s"]), {})
            counted[run["state"]] = counted.get(run["state"], 0) + 1
    return [
        {
            "method": method,
            "setting": data["settings"][s]["name"],
            "done": counted.get("done", 0),
            "expected": sum(counted.values()),
            "others": ", ".join(f"{count} {state}" for state, count in sorted(counted.items()) if state != "done"),
        }
        for (method, s), counted in sorted(states.items())
        if set(counted) != {"done"}
    ]


def _by_reason(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """(reason, run names), the most frequent reason first."""
    found: dict[str, list[str]] = {}
    for reason, name in pairs:
        found.setdefault(reason, []).append(name)
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))


def _style() -> str:
    style = (HERE / "style.css").read_text("utf-8")
    for name, colours in (("light", palette.ON_LIGHT), ("dark", palette.ON_DARK)):
        declared = " ".join(f"--c{i}: {colour};" for i, colour in enumerate(colours))
        style = style.replace(f"/* palette: {name} */", declared)
    return style


def _json(data: Any) -> str:
    """Compact JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _clean(value: Any) -> Any:
    """`value` with every character that cannot be shown (control, direction, half a surrogate) replaced."""
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in value)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
