"""The commands of `imcil`: each takes the parsed arguments and returns an exit status.

Heavy imports happen inside, so that `--help` and `list` answer at once, and commands that read results without torch.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import outputs
from benchmark.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from benchmark.config.schema import RunConfig
    from benchmark.sweeps.engines.base import Engine
    from benchmark.sweeps.engines.worker import Listener


def list_names(options: argparse.Namespace) -> int:
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
        from benchmark import backbones

        return [(name, backbones.describe(name)) for name in backbones.names()]
    if room == "figures":
        from benchmark import figures

        return [(name, figures.describe(name)) for name in figures.NAMES]
    if room == "published":
        from benchmark.results import published

        return published.descriptions()
    from benchmark import config

    return [(name, config.describe(name)) for name in config.names()]


def run(options: argparse.Namespace) -> int:
    from benchmark import config

    sweep = config.load(options.config, options.overrides)
    _check_code(options, [sweep.base])
    if options.threads is not None:
        if options.threads < 1:
            raise UserError(f"--threads must be 1 or more, got {options.threads}.")
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # read when torch is imported
    return run_here(sweep.base, _out(options, sweep.name), options.device, outputs.write_tables)


def sweep(options: argparse.Namespace) -> int:
    from benchmark import config
    from benchmark.sweeps import sweep

    plan = config.load(options.config, options.overrides)
    runs = plan.runs()
    _check_code(options, runs)
    return sweep.run_sweep(
        runs,
        _out(options, plan.name),
        _engine(options),
        fail_fast=options.fail_fast,
        finish=outputs.write_results,
        meanwhile=outputs.import_early,
    )


def retry(options: argparse.Namespace) -> int:
    from benchmark.sweeps import plan, sweep

    runs = plan.planned_runs(options.directory)
    _check_code(options, runs)
    return sweep.run_sweep(
        runs,
        options.directory,
        _engine(options),
        retry=True,
        fail_fast=options.fail_fast,
        finish=outputs.write_results,
        meanwhile=outputs.import_early,
    )


def tune(options: argparse.Namespace) -> int:
    from benchmark import config
    from benchmark.tuning.tune import tune

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
    from benchmark.config.overrides import parse_override, texts

    named = {text for item in getattr(options, "overrides", ()) for text in texts(parse_override(item)[1])}
    for file in (file for run in runs for file in run.code_files):
        if file not in named and not options.allow_code:
            raise UserError(f'The config would run code from "{file}": give --allow-code if you trust it.')


def _engine(options: argparse.Namespace) -> Callable[[Path, Listener], Engine]:
    """What makes the engine that was asked for, with its options checked."""
    from benchmark.sweeps.engines.base import NAMES
    from benchmark.sweeps.engines.device import worker_devices
    from benchmark.sweeps.engines.local import LocalEngine
    from benchmark.sweeps.engines.ray import RayEngine
    from benchmark.sweeps.engines.slurm import SlurmEngine, parse_options

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


def stream(options: argparse.Namespace) -> int:
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
        from benchmark.runs.prepare import prepare

    info = prepare(plan.base)[1].info
    console, table = Console(), stream_table(info)
    if not console.is_terminal:  # all of it
        console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)
    if options.plot:
        from benchmark.figures.stream_profile import plot_stream

        plot_stream(info, options.plot)
        print(f"Drawn to {options.plot}.")
    return 0


def status(options: argparse.Namespace) -> int:
    from benchmark.sweeps import status

    (status.watch_status if options.watch else status.print_status)(options.directory)
    return 0


def table(options: argparse.Namespace) -> int:
    from benchmark.tables import tables

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
        outputs.write_tables(directory)
    if options.per_class:
        from benchmark.tables.per_class import write_per_class

        print(f"Every class: {write_per_class(options.directory)}")
    return 0


def figures(options: argparse.Namespace) -> int:
    from benchmark import figures

    if options.out:
        _check_folder("--out must be a folder", options.out)
    figures.write_figures(
        options.directory, options.only or figures.NAMES, options.overrides, out=options.out, told=print
    )
    return 0


def report(options: argparse.Namespace) -> int:
    from benchmark.report import write_report

    print(f"Written to {write_report(options.directory)}.")
    return 0


def compare(options: argparse.Namespace) -> int:
    from benchmark.tables.published import print_comparison

    print_comparison(options.directory)
    return 0


def check(options: argparse.Namespace) -> int:
    from benchmark.config.checks import build_recipe
    from benchmark.config.sections import StrategyConfig
    from benchmark.contract.checks import print_check

    return print_check(build_recipe(StrategyConfig(name=options.strategy)))


def run_here(config: RunConfig, out: Path, device: str, finish: Callable[[Path], None]) -> int:
    """Carry out one run in this process, then print its summary; returns the exit status: 1 failed, 75 interrupted.

    `finish` is called with the results folder at the end, to write what is made of the results.

    Raises
    ------
    UserError : the config does not fit its data; nothing was started.
    """
    from rich.console import Console

    from benchmark.datasets.progress import LIBRARIES, waiting
    from benchmark.runs.signals import RESUMABLE, StopRequest
    from benchmark.storage.folder import RunFolder
    from benchmark.sweeps.engines import worker
    from benchmark.sweeps.live_view import LiveView
    from benchmark.sweeps.preflight import check_writable

    console = Console()
    name = config.run_name
    folder = RunFolder(out / "runs" / name)
    if folder.read_result() is None:
        with StopRequest().listening("Stopping after this step; a second signal ends it at once.") as stop:
            check_writable(out)
            with waiting(LIBRARIES):
                importlib.import_module("benchmark.runs.execute")  # some seconds; its first user is `check`
            for _, sentence in worker.check([config], device, out, workers=1):  # before the folder exists
                raise UserError(sentence)
            view = LiveView([name])
            with view:
                if folder.state == "failed":
                    folder.forgive()
                kind, message = worker.carry_out(config, folder, device, view.event, stop)
        if kind == "interrupted":
            print("imcil: interrupted and saved; the same command continues.", file=sys.stderr)
            return RESUMABLE
        if message is not None:
            record = f" The traceback is in {folder.failure}." if folder.failure.exists() else ""
            print(f"imcil: {message}{'' if message.endswith('.') else '.'}{record}", file=sys.stderr)
            return 1
    else:
        console.print(f"{folder.path} is finished; its result is shown. Remove the folder to train again.")
    result = folder.read_result()
    assert result is not None
    for classifier, metrics in result["classifiers"].items():
        summary = {key: value for key, value in metrics["summary"].items() if value is not None}
        console.print(f"[bold]{classifier}[/]: " + ", ".join(f"{k} {100 * v:.2f}" for k, v in summary.items()))
    console.print(f"memory held at the end: {sum(result['memory_held'])} images")
    finish(out)
    return 0
