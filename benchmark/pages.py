"""Regenerate the tables of README.md and results/README.md from files: `python -m benchmark.pages [--check]`.

Everything between `<!-- generated: NAME args -->` and `<!-- end -->` is replaced. Blocks:

    table DIR [METRIC] [KEY=VALUE …]
                         the comparison of a metric, or "groups", from the run folders of DIR (relative to the page),
                         of the runs whose config has these values
    differences DIR baseline=ROW [metric=METRIC] [KEY=VALUE …]
                         paired differences of every row of that table to one of them
    pairs DIR METRIC,METRIC… METHOD:BASELINE…
                         paired differences of some rows to others, in several metrics
    precisions DIR DIR METRIC METHOD…
                         paired differences of the same runs in two folders, made in two precisions
    figures DIR [NAME…]  figures that `imcil figures DIR` left, all or these, each under its one line
    strategies           every method with its one line
    references           every paper with the methods that are taken from it
    stock_notes          the methods of which a stock Avalanche template does not show everything, and what
    configs              every config with the first comment of its file
    faults FILE          what the tests of faults try, and how often
    perf DIR [PART…]     speed against the bare loop, from the files of `make perf`

With --check nothing is written: exit status 1 and a diff when a page is not up to date.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, did_you_mean
from benchmark.storage.files import read_json, write_text
from benchmark.tables.render import escape_markdown, to_markdown

PAGES = (Path("README.md"), Path("results/README.md"))
OPEN, CLOSE = "<!-- generated:", "<!-- end -->"
BLOCK = re.compile(r"^<!-- generated: *(?P<call>[^\n]*?) *-->\n(?P<body>.*?)^<!-- end -->", re.DOTALL | re.MULTILINE)


def table(root: Path, directory: str, *options: str) -> str:
    """`table DIR [METRIC] [KEY=VALUE …]`."""
    from benchmark.tables.tables import load_table

    metrics = [option for option in options if "=" not in option]
    if len(metrics) > 1:
        raise UserError("A block of a table has one metric at most, and KEY=VALUE.")
    where = [option for option in options if "=" in option]
    return to_markdown(load_table(root / directory, metrics[0] if metrics else None, where=where))


def differences(root: Path, directory: str, *options: str) -> str:
    """`differences DIR baseline=ROW [metric=METRIC] [KEY=VALUE …]`."""
    from benchmark.tables.tables import chosen, differences_table

    given = dict(option.partition("=")[::2] for option in options)
    if "baseline" not in given or not all("=" in option for option in options):
        raise UserError("A block of differences needs baseline=ROW, and may have metric=METRIC and KEY=VALUE.")
    where = [option for option in options if not option.startswith(("baseline=", "metric="))]
    return to_markdown(differences_table(chosen(root / directory, where), given["baseline"], given.get("metric")))


def pairs(root: Path, directory: str, metrics: str, *rows: str) -> str:
    """`pairs DIR METRIC,METRIC… METHOD:BASELINE…`."""
    from benchmark.results.summary import summarise
    from benchmark.tables.comparisons import pair_table

    named = [(method, baseline) for method, _, baseline in (row.partition(":") for row in rows)]
    return to_markdown(pair_table(summarise(root / directory)[0], named, metrics.split(",")))


def precisions(root: Path, directory: str, other: str, metric: str, *methods: str) -> str:
    """`precisions DIR DIR METRIC METHOD…`."""
    import pandas as pd

    from benchmark.results.summary import summarise, text
    from benchmark.tables.comparisons import pair_table

    frames = []
    for folder in (directory, other):
        rows = summarise(root / folder)[0]
        rows = rows[rows["strategy"].isin(methods) & rows[metric].notna()]
        rows.attrs = {}  # an equal run has the same name in both, and no variant
        found = sorted(set(rows["precision"].map(text)))
        if len(found) != 1:
            raise UserError(
                f"The runs of {folder} must be of one precision, and are of {' and '.join(found) or 'none'}."
            )
        frames.append((found[0], rows.assign(strategy=rows["strategy"] + f" in {found[0]}")))
    named = [(f"{method} in {frames[0][0]}", f"{method} in {frames[1][0]}") for method in methods]
    return to_markdown(pair_table(pd.concat([rows for _, rows in frames]), named, [metric]))


def figures(root: Path, directory: str, *names: str) -> str:
    """`figures DIR [NAME…]`."""
    from benchmark.figures import NAMES, describe

    drawn = [name for name in NAMES if (root / directory / "figures" / f"{name}.png").is_file()]
    missing = [name for name in names if name not in drawn]
    if missing or not drawn:
        raise UserError(f"{directory}/figures has no {(missing or ['figure'])[0]}.png; draw it: imcil figures DIR.")
    described = {name: f"{describe(name)[0].upper()}{describe(name)[1:]}" for name in names or drawn}
    return "\n".join(f"{text}:\n\n![{text}]({directory}/figures/{name}.png)\n" for name, text in described.items())


def strategies(root: Path) -> str:
    """`strategies`."""
    from strategies.registry import NAMES

    return _list({name: description for name, (_, description) in NAMES.items()})


def references(root: Path) -> str:
    """`references`."""
    methods: dict[str, list[str]] = {}
    for name, recipe in _recipes().items():
        methods.setdefault(recipe.reference, []).append(f"`{name}`")
    papers = sorted(paper for paper in methods if ", " in paper)  # "upper bound" is none
    return "".join(f"- {escape_markdown(paper)}: {', '.join(methods[paper])}\n" for paper in papers)


def stock_notes(root: Path) -> str:
    """`stock_notes`."""
    return "".join(f"- `{name}`: {recipe.stock_note}\n" for name, recipe in _recipes().items() if recipe.stock_note)


def _recipes() -> dict[str, Any]:
    from strategies.registry import NAMES, get

    return {name: get(name) for name in NAMES}


def configs(root: Path) -> str:
    """`configs`."""
    from benchmark.config.loading import CONFIGS

    return _list({path.stem: _first_comment(path) for path in sorted(CONFIGS.glob("*.yaml"))})


def perf(root: Path, directory: str, *parts: str) -> str:
    """`perf DIR [PART…]`."""
    from benchmark.perf.tables import speed_tables

    return speed_tables(root, directory, *parts)


def faults(root: Path, file: str) -> str:
    """`faults FILE`."""
    rows = [(fault, *(f"{count:,}" for count in counts)) for fault, counts in read_json(root / file).items()]
    lines = [("fault", "`make test`", "`make test-all`"), ("---", "---:", "---:"), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


BLOCKS: dict[str, Callable[..., str]] = {
    "table": table,
    "differences": differences,
    "pairs": pairs,
    "precisions": precisions,
    "figures": figures,
    "strategies": strategies,
    "references": references,
    "stock_notes": stock_notes,
    "configs": configs,
    "faults": faults,
    "perf": perf,
}


def regenerate(content: str, root: Path) -> str:
    """`content` with every generated block made anew. Raises UserError on an unknown block or a missing end."""
    if content.count(OPEN) != len(BLOCK.findall(content)):
        raise UserError(f'Every "{OPEN} NAME -->" needs a line "{CLOSE}" of its own after it.')

    def replace(match: re.Match[str]) -> str:
        if OPEN in match["body"]:
            raise UserError(f'The block "{match["call"]}" has no "{CLOSE}" before the next block.')
        name, *arguments = shlex.split(match["call"]) or [""]
        if name not in BLOCKS:
            raise UserError(f'There is no generated block "{name}".{did_you_mean(name, BLOCKS)}')
        try:
            inspect.signature(BLOCKS[name]).bind(root, *arguments)
        except TypeError as error:
            raise UserError(f'The block "{match["call"]}" has the wrong number of arguments.') from error
        body = BLOCKS[name](root, *arguments)
        return f"{OPEN} {match['call']} -->\n{body}{CLOSE}"

    return BLOCK.sub(replace, content)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status. All pages are made before the first is written."""
    names = " and ".join(map(str, PAGES))
    parser = argparse.ArgumentParser(prog="python -m benchmark.pages", description=f"Regenerate {names}.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is not up to date")
    parser.add_argument("pages", nargs="*", metavar="PAGE", type=Path, help=f"default: {names}")
    options = parser.parse_args(argv)
    changed = {}
    try:
        for page in options.pages or PAGES:
            old = page.read_text(encoding="utf-8")
            new = regenerate(old, page.resolve().parent)
            if new != old:
                changed[page] = (old, new)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for page, (old, new) in changed.items():
        if options.check:
            sys.stderr.writelines(
                difflib.unified_diff(old.splitlines(True), new.splitlines(True), str(page), "as generated")
            )
        else:
            write_text(page, new)
    return int(options.check and bool(changed))


def _list(described: dict[str, str]) -> str:
    return "".join(f"- `{name}`: {escape_markdown(text)}\n" for name, text in described.items())


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ")
    return ""


if __name__ == "__main__":
    sys.exit(main())
