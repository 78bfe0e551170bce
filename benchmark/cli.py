"""The command line, `imcil …`. Heavy imports happen inside commands: `--help` and `list` answer at once."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from benchmark.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from benchmark.config import RunConfig
    from benchmark.engines.base import Engine
    from benchmark.engines.worker import Listener

USER_MISTAKE, FAILED_RUNS, INTERRUPTED = 2, 1, 130
NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP)
ROOMS = ("datasets", "strategies", "configs", "backbones", "figures", "published")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run a command, and return the exit status: 0, 1 for failed runs, 2 for a mistake in the input, 75 for a
    run or sweep that was stopped by a signal and goes on with the same command (`benchmark.interruption`).
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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, help_text: str, command: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text)
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

    run = add("run", "train and evaluate one method on one stream", _run)
    takes_config(run)
    run.add_argument("--out", type=Path, help="folder for results (default: results/CONFIG)")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    run.add_argument("--threads", type=int, help="CPU threads (default: all cores)")

    sweep = add("sweep", "run a grid of runs, skipping finished ones, and write tables and curves", _sweep)
    takes_config(sweep)
    sweep.add_argument("--out", type=Path, help="folder for results (default: results/CONFIG)")
    takes_engine(sweep)

    retry = add("retry", "run the failed and unfinished runs of a sweep again", _retry)
    retry.add_argument("directory", type=Path, help="a results folder")
    takes_engine(retry)
    allows_code(retry)

    tune = add("tune", "pick hyper-parameters by trials on images held out of training, never on the test set", _tune)
    takes_config(tune)
    tune.add_argument("--out", type=Path, help="folder for the trials (default: results/CONFIG_tuning)")
    takes_engine(tune)

    stream = add("stream", "print the stream of a config, without training", _stream)
    takes_config(stream)
    stream.add_argument("--plot", type=Path, metavar="FILE", help="draw it as PNG or PDF")

    table = add("table", "write summary.csv, curves.csv and the tables of a results folder", _table)
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

    status = add("status", "show the runs of a results folder: where they run, what failed, what is left", _status)
    status.add_argument("directory", type=Path, help="a results folder")
    status.add_argument("--watch", action="store_true", help="go on showing them until all are done or failed")

    report = add("report", "write report.html, one self-contained page with all results of a folder", _report)
    report.add_argument("directory", type=Path, help="a results folder")

    compare = add("compare", "put the numbers that papers report beside those of a results folder", _compare)
    compare.add_argument("directory", type=Path, help="a results folder")

    figures = add("figures", "draw the figures of a results folder, PNG and PDF", _figures)
    figures.add_argument("directory", type=Path, help="a results folder")
    takes_conditions(figures)
    figures.add_argument("--only", action="append", metavar="NAME", help="one figure (imcil list figures); repeatable")
    figures.add_argument("--out", type=Path, help="folder for the files (default: DIRECTORY/figures)")

    check = add("check", "test a strategy against the contract that every strategy passes", _check)
    check.add_argument("strategy", help="a name (imcil list strategies) or path/to/file.py:Class")

    listing = add("list", "list what can be named in a config", _list)
    listing.add_argument("room", choices=ROOMS)
    return parser


# --- commands -------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    if not sys.stdout.isatty():  # one line each, for grep
        entries = _descriptions(options.room)
        width = max((len(name) for name, _ in entries), default=0)
        print(*(f"{name:{width}}  {description}" for name, description in entries), sep="\n")
        return 0
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, description in _descriptions(options.room):
        table.add_row(name, description)
    Console().print(table)
    return 0


def _descriptions(room: str) -> list[tuple[str, str]]:
    if room == "strategies":
        from strategies import registry

        return [(name, registry.describe(name)) for name in registry.names()]
    if room == "datasets":
        from benchmark import datasets

        return [(name, datasets.describe(name)) for name in datasets.names()]
    if room == "backbones":
        from benchmark import models

        return [(name, models.describe(name)) for name in models.names()]
    if room == "figures":
        from benchmark import figures

        return [(name, figures.describe(name)) for name in figures.NAMES]
    if room == "published":
        from benchmark import published

        return published.descriptions()
    from benchmark import config

    return [(name, config.describe(name)) for name in config.names()]


def _run(options: argparse.Namespace) -> int:
    from benchmark import config
    from benchmark.engines import console

    sweep = config.load(options.config, options.overrides)
    _check_code(options, [sweep.base])
    if options.threads is not None:
        if options.threads < 1:
            raise UserError(f"--threads must be 1 or more, got {options.threads}.")
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # read when torch is imported
    return console.run_here(sweep.base, _out(options, sweep.name), options.device)


def _sweep(options: argparse.Namespace) -> int:
    from benchmark import config, sweep

    plan = config.load(options.config, options.overrides)
    runs = plan.runs()
    _check_code(options, runs)
    return sweep.run_sweep(runs, _out(options, plan.name), _engine(options), fail_fast=options.fail_fast)


def _retry(options: argparse.Namespace) -> int:
    from benchmark import plan, sweep

    runs = plan.planned_runs(options.directory)
    _check_code(options, runs)
    return sweep.run_sweep(runs, options.directory, _engine(options), retry=True, fail_fast=options.fail_fast)


def _tune(options: argparse.Namespace) -> int:
    from benchmark import config
    from benchmark.tune import tune

    plan = config.load(options.config, options.overrides)
    _check_code(options, plan.runs())
    return tune(plan, _out(options, f"{plan.name}_tuning"), _engine(options), fail_fast=options.fail_fast)


def _out(options: argparse.Namespace, name: str) -> Path:
    out: Path = options.out or Path("results") / name
    _check_folder("--out must be a folder", out)
    return out


def _check_folder(rule: str, folder: Path) -> None:
    """Raise UserError where a folder cannot be made because a file is in its place."""
    file = next((place for place in (folder, *folder.parents) if place.exists() and not place.is_dir()), None)
    if file:
        raise UserError(f"{rule}, and {file} is a file.")


def _check_code(options: argparse.Namespace, runs: Sequence[RunConfig]) -> None:
    """Code in a file runs only if the file is named on this command line or --allow-code is given."""
    from benchmark.overrides import parse_override, texts

    named = {text for item in getattr(options, "overrides", ()) for text in texts(parse_override(item)[1])}
    for file in (file for run in runs for file in run.code_files):
        if file not in named and not options.allow_code:
            raise UserError(f'The config would run code from "{file}": give --allow-code if you trust it.')


def _engine(options: argparse.Namespace) -> Callable[[Path, Listener], Engine]:
    """What makes the engine that was asked for, with its options checked."""
    from benchmark.engines.base import NAMES
    from benchmark.engines.device import worker_devices
    from benchmark.engines.local import LocalEngine
    from benchmark.engines.ray import RayEngine
    from benchmark.engines.slurm import SlurmEngine, parse_options

    name, device, per_gpu = options.engine, options.device, options.per_gpu
    if name not in NAMES:
        raise UserError(f'There is no engine "{name}".{did_you_mean(name, NAMES)}')
    for option, owner in (("slurm", "slurm"), ("detach", "slurm"), ("address", "ray")):
        if getattr(options, option) and name != owner:
            raise UserError(f"--{option} is for --engine {owner}.")
    if options.jobs != "auto" and (not options.jobs.isdigit() or int(options.jobs) < 1):
        raise UserError(f"--jobs must be auto or a number from 1, got {options.jobs}.")
    if per_gpu < 1:
        raise UserError(f"--per-gpu must be 1 or more, got {per_gpu}.")
    jobs = None if options.jobs == "auto" else int(options.jobs)
    if name == "slurm":
        flags = parse_options(options.slurm)
        return lambda out, listener: SlurmEngine(out, jobs, device, listener, per_gpu, flags, options.detach)
    if name == "ray":
        return lambda out, listener: RayEngine(out, jobs, device, listener, per_gpu, options.address or "auto")
    devices = worker_devices(device, jobs, per_gpu)
    return lambda out, listener: LocalEngine(out, devices, listener)


def _stream(options: argparse.Namespace) -> int:
    from rich.console import Console

    from benchmark import config
    from benchmark.datasets.progress import LIBRARIES, waiting
    from benchmark.streams.info import stream_table

    if options.plot and options.plot.suffix.lower() not in (".png", ".pdf"):
        raise UserError(f"--plot needs a file that ends in .png or .pdf, got {options.plot}.")
    if options.plot:
        _check_folder("--plot must be a file in a folder", options.plot.parent)
    plan = config.load(options.config, options.overrides)
    _check_code(options, [plan.base])
    with waiting(LIBRARIES):
        from benchmark.run import prepare

    info = prepare(plan.base)[1].info
    console, table = Console(), stream_table(info)
    if not console.is_terminal:  # all of it
        console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)
    if options.plot:
        from benchmark.streams.plot import plot_stream

        plot_stream(info, options.plot)
        print(f"Drawn to {options.plot}.")
    return 0


def _status(options: argparse.Namespace) -> int:
    from benchmark import status

    (status.watch_status if options.watch else status.print_status)(options.directory)
    return 0


def _table(options: argparse.Namespace) -> int:
    from benchmark import tables
    from benchmark.sweep import write_tables

    directory, where, out = options.directory, options.overrides, options.out
    if out:
        _check_folder("--out must be a folder", out)
    if options.per_class and (where or out):
        raise UserError("--per-class writes DIR/per_class.csv, of all runs: leave --out and the conditions out.")
    if options.metric or options.baseline or (where and not out):
        tables.print_one(directory, options.metric, options.baseline, where, out)
    elif out:
        tables.print_all_tables(out, tables.chosen(directory, where))
    else:
        write_tables(directory)
    if options.per_class:
        from benchmark.per_class import write_per_class

        print(f"Every class: {write_per_class(options.directory)}")
    return 0


def _figures(options: argparse.Namespace) -> int:
    from benchmark import figures

    if options.out:
        _check_folder("--out must be a folder", options.out)
    figures.write_figures(
        options.directory, options.only or figures.NAMES, options.overrides, out=options.out, told=print
    )
    return 0


def _report(options: argparse.Namespace) -> int:
    from benchmark.report import write_report

    print(f"Written to {write_report(options.directory)}.")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from benchmark.compare import print_comparison

    print_comparison(options.directory)
    return 0


def _check(options: argparse.Namespace) -> int:
    from benchmark.config import build_recipe
    from benchmark.contract import print_check
    from benchmark.sections import StrategyConfig

    return print_check(build_recipe(StrategyConfig(name=options.strategy)))


if __name__ == "__main__":
    sys.exit(main())
