"""The order of floors: a room imports rooms before it only, typing imports included."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
METHODS, ABOVE = "strategies", ("benchmark.__init__", "benchmark.__main__")
FLOORS = (  # noqa: SIM905
    "benchmark.errors strategies.networks strategies.training strategies benchmark.metrics benchmark.storage "
    "benchmark.streams benchmark.backbones benchmark.datasets benchmark.config benchmark.loading benchmark.results "
    "benchmark.runs benchmark.sweeps benchmark.contract benchmark.tables benchmark.figures benchmark.report "
    "benchmark.outputs benchmark.tuning benchmark.perf benchmark.pages benchmark.commands benchmark.cli"
).split()


def room(module: str) -> str:
    """benchmark.tables.cells -> benchmark.tables; a method, a family or the registry -> strategies."""
    name = ".".join(module.split(".")[:2])
    return METHODS if name.startswith(METHODS) and name not in FLOORS else name


def climbing(path: Path, content: str) -> list[str]:
    """The imports of a file that point up, or sideways to a room that stands behind its own."""
    here = room(".".join(path.with_suffix("").parts))
    found = []
    for node in ast.walk(ast.parse(content)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names = [f"{names[0]}.{a.name}" for a in node.names] if names and names[0] in ("benchmark", METHODS) else names
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for there in {room(name) for name in names if name.split(".")[0] in ("benchmark", METHODS)} - {here}:
            if FLOORS.index(there) > FLOORS.index(here):
                found.append(f"{path}: {here} imports {there}")
    return found


def test_rooms_import_rooms_before_them_only() -> None:
    files = [path.relative_to(ROOT) for part in ("benchmark", METHODS) for path in (ROOT / part).rglob("*.py")]
    inside = [path for path in files if ".".join(path.with_suffix("").parts) not in ABOVE]
    assert len(inside) > 150
    assert [line for path in inside for line in climbing(path, (ROOT / path).read_text())] == []


def test_one_import_turned_round_is_found() -> None:
    upwards = "if TYPE_CHECKING:\n    from benchmark.tables.cells import percent\n"
    assert climbing(Path("benchmark/results/averages.py"), upwards) == [
        "benchmark/results/averages.py: benchmark.results imports benchmark.tables"
    ]
    assert climbing(Path("strategies/networks/heads.py"), "from strategies import registry") == [
        "strategies/networks/heads.py: strategies.networks imports strategies"
    ]


def test_roots_hold_no_loose_files() -> None:
    assert len(list((ROOT / "benchmark").glob("*.py"))) <= 12
