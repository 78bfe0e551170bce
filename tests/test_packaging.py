"""What is shipped: the lock file, the wheel in an environment of its own, and the rules on who imports whom."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import benchmark
import strategies

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = {"avalanche-lib": "avalanche", "pyyaml": "yaml", "pillow": "PIL", "scikit-learn": "sklearn"}


def locked() -> dict[str, tuple[str, list[str]]]:
    """Name -> (version, hashes) of requirements.lock."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    entries = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement, *hashes = line.split(" --hash=")
        parsed = Requirement(requirement)
        (pin,) = parsed.specifier
        assert pin.operator == "==", line
        entries.setdefault(canonicalize_name(parsed.name), (pin.version, []))[1].extend(map(str.strip, hashes))
    return entries


def imports(package: Path) -> Iterator[tuple[Path, str]]:
    """(file, top-level module) of every absolute import, those inside functions included."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.partition(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                yield path, node.module.partition(".")[0]


# --- the lock file and the project table ------------------------------------------------------------------------------


def test_every_locked_requirement_is_hashed() -> None:
    entries = locked()
    assert len(entries) > 50
    for name, (_, hashes) in entries.items():
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), name


def test_the_lock_names_no_place() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text and "--index-url" not in text and "--find-links" not in text and "@" not in text


def test_the_lock_satisfies_the_project() -> None:
    entries = locked()
    for text in [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]:
        wanted = Requirement(text)
        version, _ = entries[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{text} is locked at {version}"


def test_every_dependency_is_used_and_every_import_is_declared() -> None:
    extras = [text for texts in PROJECT["project"].get("optional-dependencies", {}).values() for text in texts]
    others_use = {"setuptools", "tensorboard"}  # gputil and Avalanche's logger
    declared = {Requirement(text).name for text in [*PROJECT["project"]["dependencies"], *extras]} - others_use
    modules = {MODULES.get(name, name.replace("-", "_")) for name in declared}
    found = {name for package in ("benchmark", "strategies") for _, name in imports(ROOT / package)}
    third_party = found - set(sys.stdlib_module_names) - {"benchmark", "strategies"}
    assert third_party - modules == set()
    assert modules - third_party == set()


def test_versions_agree() -> None:
    assert importlib.metadata.version("imcil") == PROJECT["project"]["version"]
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    assert PROJECT["project"]["scripts"] == {"imcil": "benchmark.cli:main"}


def test_the_licence_is_there() -> None:
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert PROJECT["project"]["license"] == "MIT"


# --- the source tree --------------------------------------------------------------------------------------------------


def test_strategies_know_nothing_of_the_benchmark() -> None:
    assert [str(path) for path, name in imports(ROOT / "strategies") if name == "benchmark"] == []


def test_tests_are_no_package() -> None:
    """Avalanche installs a package named tests."""
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not [path for path, name in imports(ROOT / "tests") if name == "tests"]


def test_imported_packages_are_those_of_the_checkout() -> None:
    assert Path(benchmark.__file__) == ROOT / "benchmark" / "__init__.py"
    assert Path(strategies.__file__) == ROOT / "strategies" / "__init__.py"


@pytest.mark.parametrize(
    "module",
    [
        "metrics.single_label",
        "metrics.multi_label",
        "metrics.catalogue",
        "storage.archive",
        "storage.records",
        "results.averages",
        "results.costs",
        "results.filters",
        "results.labels",
        "results.pairs",
        "results.published",
        "results.results",
        "results.statistics",
        "results.summary",
        "results.user_metrics",
        "tables.tables",
        "tables.comparisons",
        "tables.costs",
        "tables.per_class",
        "tables.published",
        "tables.render",
        "figures",
        "report",
        "sweeps.status",
        "config",
        "outputs",
        "pages",
        "cli",
    ],
)
def test_reading_results_needs_no_torch(module: str) -> None:
    code = f"import sys, benchmark.{module}; sys.exit(bool({{'torch', 'avalanche'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shipped_text_names_no_place_of_ours() -> None:
    """No registry's host, no path of the machine it was written on, nothing outside the repository."""
    words = ["py" + "pi.org", "python" + "hosted", str(ROOT) + "/", "../" + "shared", "/work/" + "main"]
    paths = [ROOT / name for name in ("README.md", "Makefile", "pyproject.toml", "requirements.lock", ".ci/run")]
    for folder in ("benchmark", "strategies"):
        paths += [
            path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml", ".html", ".css", ".js")
        ]
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert [word for word in words if word in text] == [], path


# --- make and CI ------------------------------------------------------------------------------------------------------


def test_make_has_the_targets_people_are_told_of() -> None:
    text = (ROOT / "Makefile").read_text()
    described = dict(re.findall(r"^([a-z-]+):.*##\s*(\S.*)$", text, flags=re.MULTILINE))
    assert set(described) >= {"help", "setup", "bench", "test", "test-all", "perf", "lint", "readme", "lock"}
    phony = re.search(r"^\.PHONY:(.*)$", text, flags=re.MULTILINE)
    assert phony is not None and set(described) == set(phony.group(1).split())


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "command"),
    [("bench", "imcil sweep quick"), ("test", "pytest"), ("lint", "mypy"), ("perf", "benchmark.perf")],
)
def test_make_runs_what_it_says_after_the_set_up(target: str, command: str) -> None:
    done = subprocess.run(
        ["make", "-n", "-B", target, "VENV=a-new-venv"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout
    assert (
        lines.index("-m venv a-new-venv") < lines.index("--require-hashes -r requirements.lock") < lines.index(command)
    )


def test_ci_lints_and_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert {"make lint", "make test"} <= set(script.read_text().splitlines())


# --- the wheel --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git would hand to someone else, where git is there to ask."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ) if shutil.which("git") and (ROOT / ".git").exists() else None  # fmt: skip
    if listed is not None and listed.returncode == 0:
        for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    else:
        source = ROOT
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")],
        cwd=source, capture_output=True, check=True,
    )  # fmt: skip
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_wheel_holds_both_packages_with_their_data_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"imcil-{PROJECT['project']['version']}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"imcil-{PROJECT['project']['version']}.dist-info"
        assert "imcil = benchmark.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
        assert "License-Expression: MIT" in archive.read(f"{info}/METADATA").decode()
    assert {name.partition("/")[0] for name in names} == {"benchmark", "strategies", info}
    assert f"{info}/licenses/LICENSE" in names
    for package in ("benchmark", "strategies"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".yaml", ".html", ".css", ".js") and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in names
    for path in (ROOT / "results" / "published").glob("*.csv"):
        assert f"benchmark/published_numbers/{path.name}" in names
    assert not [name for name in names if name.endswith((".pyc", ".so"))]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a new environment: the wheel alone, its dependencies borrowed by a path file."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    borrowed = Path(pytest.__file__).resolve().parent.parent
    (site / "borrowed.pth").write_text(f"{borrowed}\n")  # the path files in there, ours too, are not read
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-deps",
         "--no-index", "--disable-pip-version-check", "--force-reinstall", str(wheel)],
        capture_output=True, check=True,
    )  # fmt: skip
    return folder / "bin"


def run(program: Path, *arguments: str, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(program), *arguments],
        cwd=cwd, env={**environment, "COLUMNS": "160"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_wheel_works_from_anywhere(installed: Path, tmp_path: Path) -> None:
    code = "import benchmark, strategies; print(benchmark.__file__, strategies.__file__, sep='\\n')"
    for place in run(installed / "python", "-c", code, cwd=tmp_path).splitlines():
        assert Path(place).is_relative_to(installed.parent)
    assert "quick" in run(installed / "imcil", "list", "configs", cwd=tmp_path)
    listed = run(installed / "python", "-m", "benchmark", "list", "strategies", cwd=tmp_path)
    assert {"replay", "icarl", "dgr"} <= {line.split()[0] for line in listed.splitlines()}
    assert "10 classes" in run(installed / "imcil", "list", "datasets", cwd=tmp_path)
    assert "GR (CVPR 2024)" in run(installed / "imcil", "list", "published", cwd=tmp_path)
    assert "digits, lfs, 5 experiences" in run(installed / "imcil", "stream", "digits", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_shipped_configs_are_yaml_with_known_sections() -> None:
    for path in (ROOT / "benchmark" / "config" / "presets").iterdir():
        if path.suffix == ".yaml":
            assert set(yaml.safe_load(path.read_text())) <= {
                "dataset", "stream", "strategy", "memory", "training", "metrics", "grid", "search",
            }  # fmt: skip
