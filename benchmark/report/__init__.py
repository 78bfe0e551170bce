"""`imcil report DIR`: one self-contained page, DIR/report.html, from the run folders alone.

Everything is in the file: data as JSON, style, script; its content security policy forbids loading anything and running
any other script. Text from a results folder is escaped: by jinja2 in the page, by `<`, `>` and `&` as \\u escapes in the
JSON, and the script makes text nodes of it, never markup. Neither torch nor a plugin is imported, nothing unpickled.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import palette
from benchmark.errors import UserError
from benchmark.report.collect import collect
from benchmark.store import write_text
from benchmark.summary import all_runs, summarise_runs
from benchmark.tables import WRITTEN, WRITTEN_MULTI, main_table

if TYPE_CHECKING:
    import pandas as pd

HERE = Path(__file__).parent
SECTIONS = {
    "overview": "Overview",
    "leaderboard": "Leaderboard",
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
    write_text(path, page(collect(directory, records, summary, curves), _static_tables(summary)))
    return path


def page(data: Mapping[str, Any], tables: Sequence[Mapping[str, Any]] = ()) -> str:
    """The page as HTML. `data` is from `collect`; `tables` stand in for it where no script runs."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

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
        tables=_clean(tables),
        sections=SECTIONS.items(),
        missing=_missing(data),
        failures=_by_reason((run["failure"], run["name"]) for run in data["runs"] if run.get("failure")),
        faults=_by_reason((problem, run["name"]) for run in data["runs"] for problem in run["problems"]),
        refused=sorted({cell["why"] for cell in data["cells"] if "why" in cell}),
        version=version("imcil"),
        style=Markup(_style()),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        json=Markup(_json(data)),
    )


def _static_tables(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """The printed tables, for readers without JavaScript."""
    found = []
    for metric in (*WRITTEN, *WRITTEN_MULTI):
        if metric not in summary.columns or summary[metric].isna().all():
            continue
        try:
            table = main_table(summary, metric)
        except UserError as error:
            found.append({"title": str(error), "columns": [], "rows": [], "notes": []})
            continue
        rows = list(zip(table.index, table.to_numpy().tolist(), strict=True))
        found.append({**table.attrs, "columns": list(table.columns), "rows": rows})
    return found


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
