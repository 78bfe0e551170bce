"""The command line, `imcil …`: its arguments, and its exit status. What it then does is in `benchmark.commands`."""

from __future__ import annotations

import argparse
import errno
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from benchmark import commands
from benchmark.errors import UserError

USER_MISTAKE, FAILED_RUNS, INTERRUPTED = 2, 1, 130
NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP)
ROOMS = ("datasets", "strategies", "configs", "backbones", "figures", "published")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run a command, and return the exit status: 0, 1 for failed runs, 2 for a mistake in the input, 75 for a
    run or sweep that was stopped by a signal and goes on with the same command (`benchmark.runs.signals`).
    """
    parser = _parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return USER_MISTAKE
    options, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(options, "overrides") and all("=" in text and text[0] != "-" for text in rest)):
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest  # argparse takes no positional argument after an option
    warnings.filterwarnings("ignore", message="no QP solver")  # Avalanche's GEM wants one, nothing here does
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except UserError as error:
        print(f"imcil: {error}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print("\nimcil: stopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `imcil list | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in (*NOT_ALLOWED, errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        name, temporary = re.subn(r"\.([^/]+)\.[0-9a-f]{32}\.tmp$", r"\1", str(error.filename or "The results"))
        print(f"imcil: {name}{' cannot be written' if temporary else ''}: {error.strerror}.", file=sys.stderr)
        return USER_MISTAKE if error.errno in NOT_ALLOWED else FAILED_RUNS


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, as every other is told."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_MISTAKE, f"{self.prog}: {message.rstrip('.')}; see {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="imcil", description="Compare class-incremental learning methods on long-tailed data.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, help_text: str, command: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=help_text, description=help_text)
        sub.set_defaults(command=command, parser=sub)
        return sub

    def takes_config(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("config", help="a YAML file, or the name of one that ships with imcil (imcil list configs)")
        sub.add_argument(
            "overrides", nargs="*", default=[], metavar="key=value", help="override any field, e.g. training.epochs=2"
        )
        allows_code(sub)

    def allows_code(sub: argparse.ArgumentParser) -> None:
        help_text = "import strategy and backbone files that a config names, not only those named on this command line"
        sub.add_argument("--allow-code", action="store_true", help=help_text)

    def takes_conditions(sub: argparse.ArgumentParser) -> None:
        help_text = "only these runs, e.g. stream.protocol=lfs 'strategy=[dgr, lucir]'"
        sub.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=help_text)

    def takes_engine(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--engine", default="local", help="where workers run: local (default), slurm or ray")
        sub.add_argument("--jobs", default="auto", help="worker processes; auto: one per CPU core, or per GPU")
        sub.add_argument(
            "--per-gpu", type=int, default=1, metavar="N", help="worker processes on each GPU (default: 1)"
        )
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda (all GPUs), cuda:1, …")
        sub.add_argument("--fail-fast", action="store_true", help="stop at the first failed run")
        sub.add_argument(
            "--slurm",
            action="append",
            default=[],
            metavar="key=value,…",
            help="options of sbatch: partition=gpu,time=8:00:00",
        )
        sub.add_argument("--detach", action="store_true", help="with --engine slurm: do not wait for the job")
        sub.add_argument("--address", help="of the Ray cluster: auto (default), HOST:PORT, or local for one of its own")

    run = add("run", "train and evaluate one method on one stream", commands.run)
    takes_config(run)
    run.add_argument("--out", type=Path, help="folder for results (default: results/CONFIG)")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    run.add_argument("--threads", type=int, help="CPU threads (default: all cores)")

    sweep = add("sweep", "run a grid of runs, skipping finished ones, and write tables and curves", commands.sweep)
    takes_config(sweep)
    sweep.add_argument("--out", type=Path, help="folder for results (default: results/CONFIG)")
    takes_engine(sweep)

    retry = add("retry", "run the failed and unfinished runs of a sweep again", commands.retry)
    retry.add_argument("directory", type=Path, help="a results folder")
    takes_engine(retry)
    allows_code(retry)

    tune = add(
        "tune", "pick hyper-parameters by trials on images held out of training, never on the test set", commands.tune
    )
    takes_config(tune)
    tune.add_argument("--out", type=Path, help="folder for the trials (default: results/CONFIG_tuning)")
    takes_engine(tune)

    stream = add("stream", "print the stream of a config, without training", commands.stream)
    takes_config(stream)
    stream.add_argument("--plot", type=Path, metavar="FILE", help="draw it as PNG or PDF")

    table = add("table", "write summary.csv, curves.csv and the tables of a results folder", commands.table)
    table.add_argument("directory", type=Path, help="a results folder")
    help_text = (
        "one metric or table instead of all: a column of summary.csv, groups, ranks, …, or path/to/file.py:function"
    )
    takes_conditions(table)
    table.add_argument("--metric", metavar="NAME", help=help_text)
    table.add_argument("--baseline", metavar="ROW", help="paired differences of every row to this one, with intervals")
    table.add_argument(
        "--per-class", action="store_true", help="write per_class.csv too: every class after each experience"
    )
    table.add_argument("--out", type=Path, help="folder for the tables (default: DIRECTORY/tables, if of all runs)")

    status = add(
        "status", "show the runs of a results folder: where they run, what failed, what is left", commands.status
    )
    status.add_argument("directory", type=Path, help="a results folder")
    status.add_argument("--watch", action="store_true", help="go on showing them until all are done or failed")

    report = add("report", "write report.html, one self-contained page with all results of a folder", commands.report)
    report.add_argument("directory", type=Path, help="a results folder")

    compare = add("compare", "put the numbers that papers report beside those of a results folder", commands.compare)
    compare.add_argument("directory", type=Path, help="a results folder")

    figures = add("figures", "draw the figures of a results folder, PNG and PDF", commands.figures)
    figures.add_argument("directory", type=Path, help="a results folder")
    takes_conditions(figures)
    figures.add_argument("--only", action="append", metavar="NAME", help="one figure (imcil list figures); repeatable")
    figures.add_argument("--out", type=Path, help="folder for the files (default: DIRECTORY/figures)")

    check = add("check", "test a strategy against the contract that every strategy passes", commands.check)
    check.add_argument("strategy", help="a name (imcil list strategies) or path/to/file.py:Class")

    listing = add("list", "list what can be named in a config", commands.list_names)
    listing.add_argument("room", choices=ROOMS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
