"""What is made of a results folder at the end of a sweep: CSV files, tables and figures."""

from __future__ import annotations

from pathlib import Path


def import_early() -> None:
    """What tables and figures need: seconds, better spent while the workers work than after them."""
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_pdf  # noqa: F401
    import seaborn  # noqa: F401

    import benchmark.figures
    import benchmark.tables.costs
    import benchmark.tables.tables  # noqa: F401


def write_results(directory: Path) -> None:
    """Tables and figures of a results folder."""
    write_tables(directory)
    write_figures(directory)


def write_tables(directory: Path) -> None:
    """summary.csv, curves.csv, cost.csv and tables/ of a results folder; prints the main table."""
    from benchmark.results.costs import write_costs
    from benchmark.results.summary import write_summary
    from benchmark.tables.tables import print_all_tables, tables_folder

    summary, _ = write_summary(directory)
    write_costs(directory, summary)
    if len(summary):
        print_all_tables(tables_folder(directory), summary)


def write_figures(directory: Path) -> None:
    """Accuracy and forgetting curves of a results folder, PNG and PDF."""
    from benchmark import figures

    figures.write_figures(directory)
