"""The report as a file: what it holds, what it never does, and that no folder can break it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import results_folder as fake

from benchmark import report
from benchmark.cli import main
from benchmark.figures import palette
from benchmark.report.confusion import SYMBOLS, ConfusionSum, pack, pack_all
from benchmark.results import summary
from benchmark.storage.files import append_jsonl, config_hash, read_json, write_bytes, write_json
from benchmark.storage.folder import RunFolder
from benchmark.tables import tables

ROOT = Path(__file__).resolve().parents[2]
QUICK = ROOT / "results" / "reference" / "quick"


def build(root: Path) -> tuple[str, dict]:
    """The page of a results folder, and the data in it."""
    html = report.write_report(root).read_text(encoding="utf-8")
    return html, data_of(html)


def data_of(html: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


class Elements(HTMLParser):
    """Tag -> how often; and every attribute value that names a place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.places: list[str] = []
        self.handlers: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.places += [value for name, value in attrs if name in ("src", "href", "action", "data", "xlink:href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    fake.build(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    folder = tmp_path_factory.mktemp("quick") / "quick"
    shutil.copytree(QUICK, folder)
    return build(folder)


# --- what it holds ----------------------------------------------------------------------------------------------------


def test_the_leaderboard_holds_the_numbers_of_the_tables(quick: tuple[str, dict]) -> None:
    html, data = quick
    frame, _ = summary.summarise(QUICK)
    for i, metric in enumerate(data["metrics"]):
        table = tables.main_table(frame, metric["key"])
        for cell in data["cells"]:
            mean, sd, n = cell["stats"][i]
            shown = table.loc[data["methods"][cell["m"]]["name"], data["settings"][cell["s"]]["name"]]
            assert f"{mean:.2f} ± {sd:.2f}".replace("-0.00", "0.00") == shown
            assert n == 3
    assert f'<td class="number">{table_of_readme()}</td>' in html  # the table for readers without JavaScript


def table_of_readme() -> str:
    return str(tables.load_table(QUICK).loc["dgr", "LFS-5"])


def test_curves_recalls_and_confusions_are_those_of_the_runs(quick: tuple[str, dict]) -> None:
    _, data = quick
    for entry in data["results"][::7]:
        name, classifier = data["runs"][entry["run"]]["name"], entry["classifier"]
        result = read_json(QUICK / "runs" / name / "result.json")["classifiers"][classifier]
        for metric, values in entry["curves"].items():
            expected = [None if v is None else 10_000 * v for v in result["curves"][metric]]
            assert values == pytest.approx(expected, abs=0.51), metric
        assert data["steps"][entry["steps"]] == result["curves"]["num_seen_classes"]
        assert np.mean(entry["recalls"]) / 1000 == pytest.approx(
            result["summary"]["last_accuracy_class_mean"], abs=5e-4
        )
    cell = next(
        e for e in data["confusions"] if e["m"] == data["results"][0]["m"] and e["s"] == data["results"][0]["s"]
    )
    assert unpack(cell["arrival"], cell["side"]).sum() == unpack(cell["images"], cell["side"]).sum() == 3 * 50 * 40


def test_protocol_environment_and_seeds_of_every_run_are_there(quick: tuple[str, dict]) -> None:
    _, data = quick
    for run in data["runs"]:
        config = read_json(QUICK / "runs" / run["name"] / "config.json")
        assert data["configs"][run["config"]]["training.lr"] == str(config["training"]["lr"])
        assert run["seeds"]["training"] == str(config["training"]["seed"])
        assert data["environments"][run["environment"]]["resolved.precision"] in ("bf16", "fp32")
    assert data["protocol"][0].startswith("Stream: glyphs, 50 classes, LFH-5 / LFS-5")
    assert data["groups"] == [20, 100]


def test_paired_differences_name_their_pairs(quick: tuple[str, dict]) -> None:
    _, data = quick
    entry = next(e for e in data["differences"] if data["methods"][e["baseline"]]["name"] == "dgr" and e["metric"] == 0)
    replay = next(i for i, method in enumerate(data["methods"]) if method["name"] == "replay")
    (row,) = (row for row in entry["rows"] if row["m"] == replay and data["settings"][row["s"]]["name"] == "LFS-5")
    means = tables.cells(summary.summarise(QUICK)[0]).set_index(["method", "setting"])["mean"]
    assert row["difference"] == pytest.approx(10_000 * (means["replay", "LFS-5"] - means["dgr", "LFS-5"]), abs=0.51)
    assert row["pairs"] == 3 and row["verdict"] == "too few pairs" and row["low"] < row["difference"] < row["high"]
    assert data["methods"][data["differences"][0]["baseline"]]["strategy"] not in ("joint", "joint_bsce")


def test_the_same_folder_gives_the_same_bytes_in_another_process(results: Path) -> None:
    first = report.write_report(results).read_bytes()
    code = f"from benchmark.report import write_report; write_report({str(results)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (results / "report.html").read_bytes() == first


def test_colours_are_those_of_the_figures() -> None:
    from benchmark.figures import style

    names = [f"m{i:02d}" for i in range(12)]
    styles = style.methods(names)
    assert [styles[name]["color"] for name in names[:10]] == list(palette.ON_LIGHT)
    assert len(palette.ON_DARK) == len(palette.ON_LIGHT)
    assert palette.places(reversed(names)) == {name: i for i, name in enumerate(names)}
    with_dgr = palette.places([*names, "dgr", "icarl (nme)", "icarl (head)"])
    assert (with_dgr["dgr"], with_dgr["icarl (nme)"]) == (3, 1)
    assert sorted(with_dgr.values()) == list(range(15))


# --- what it never does -----------------------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_runs_no_other_script(quick: tuple[str, dict]) -> None:
    html, _ = quick
    elements = Elements(html)
    assert all(place.startswith("#") for place in elements.places)
    assert elements.handlers == []
    assert elements.tags["script"] == 2
    assert not {"link", "iframe", "img", "object", "embed", "base", "form"} & set(elements.tags)
    assert set(re.findall(r"\w+://[^\s\"'<]*", html.replace(json.dumps(data_of(html)), ""))) == {
        "http://www.w3.org/2000/svg"
    }
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|url\(|@import", html
    )
    script = html[html.rindex("<script>") + len("<script>") : html.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert "default-src 'none'" in policy[1] and f"script-src 'sha256-{digest}'" in policy[1].replace(
        "&#39;", "'"
    ).replace("&#43;", "+")


def test_the_report_needs_no_torch_and_imports_no_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "evil.py"
    plugin.write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nclass Mine: pass\n")
    name = fake.write_run(tmp_path, fake.config("replay"))
    write_json(tmp_path / "runs" / name / "config.json", fake.config(f"{plugin}:Mine"))
    code = (
        "import sys; sys.modules.update(torch=None, torchvision=None, avalanche=None)\n"
        f"from benchmark.cli import main; sys.exit(main(['report', {str(tmp_path)!r}]))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not (tmp_path / "imported").exists()
    assert data_of((tmp_path / "report.html").read_text())["methods"][0]["name"] == "Mine"


HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"\' onmouseover="window.hacked = 1',
    "{{ 7 * 7 }}{% raw %}",
    "<!--<script>",
    "\u202egnp.exe\u2028\x00\ud800",
    "]]>&lt;b&gt;&#60;",
)


def hostile_folder(root: Path) -> None:
    """Every text of `HOSTILE` as the name of a run, method, classifier, dataset, option and as a failure."""
    for i, text in enumerate(HOSTILE):
        changes = {"dataset__name": text, "stream__order": text, "training__backbone": text}
        name = fake.write_run(root, fake.config("replay", seed=i), classifiers=("head", text))
        content = fake.config(text, seed=i, **changes)
        (root / "runs" / name / "config.json").write_text(json.dumps(content))
        called = text.replace("/", "∕").replace("\0", "").encode("utf-8", "replace").decode()
        (root / "runs" / name).rename(root / "runs" / f"{i} {called}")
        failing = RunFolder(root / "runs" / f"failed {i} {called}")
        failing.path.mkdir()
        failing.config.write_text(json.dumps({**content, "strategy": {"name": text, "option": [text]}}))
        failing.failure.write_text(json.dumps({"exception": text, "traceback": f"T\n  {text}\n", "attempt": text}))


def test_text_from_the_folder_is_escaped(tmp_path: Path, results: Path) -> None:
    expected = Elements(build(results)[0]).tags
    hostile_folder(tmp_path / "hostile")
    html, data = build(tmp_path / "hostile")
    elements = Elements(html)
    assert elements.handlers == []
    for tag in ("script", "b", "img", "style"):
        assert elements.tags.get(tag) == expected.get(tag), tag
    names = {method["name"] for method in data["methods"]}
    assert any("</script>" in name for name in names) and any("{{ 7 * 7 }}" in name for name in names)
    assert not any(c in html for c in "\u202e\u2028\0")
    assert data["states"] == {"done": len(HOSTILE), "failed": len(HOSTILE)}


# --- folders in any state ---------------------------------------------------------------------------------------------


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))


def a_header_that_lies(shape: tuple[int, ...]) -> bytes:
    """An .npz whose array claims `shape` and holds nothing."""
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i4", "fortran_order": False, "shape": shape})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("head.npy", header.getvalue())
    return buffer.getvalue()


def test_failed_partial_foreign_and_damaged_runs_are_named(results: Path, tmp_path: Path) -> None:
    runs = sorted((results / "runs").iterdir())
    folders = [RunFolder(path) for path in runs]
    folders[0].result.write_text('{"complete": tr')
    folders[1].config.unlink()
    folders[2].stream.write_text("[]")
    folders[3].result.unlink()
    write_json(folders[3].failure, {"exception": "RuntimeError: out of memory", "traceback": "Tr\nace", "attempt": 2})
    folders[4].result.unlink()
    append_jsonl(folders[4].metrics, {"experience": 0})
    shutil.rmtree(runs[5])
    write_json(
        folders[6].result, {"format": 1, "complete": True, "classifiers": {"head": {"summary": 3, "curves": [1]}}}
    )
    write_json(folders[7].result, {"format": 99, "complete": True, "classifiers": {}})
    foreign = results / "runs" / "somebody-else"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model": {"lr": 1}, "steps": [1, 2], "strategy": 3}')
    (results / "runs" / "empty").mkdir()
    (results / "runs" / "notes.txt").write_text("no folder")

    html, data = build(results)
    by_name = {run["name"]: run for run in data["runs"]}
    assert "result.json is damaged" in by_name[runs[0].name]["problems"]
    assert by_name[runs[1].name]["state"] == "damaged"
    assert any("stream.json is damaged" in problem for problem in by_name[runs[2].name]["problems"])
    failed = by_name[runs[3].name]
    assert (failed["state"], failed["failure"], failed["attempt"]) == ("failed", "RuntimeError: out of memory", "2")
    assert by_name[runs[4].name]["state"] == "interrupted" and by_name[runs[4].name]["progress"].startswith("1/")
    assert by_name[runs[5].name]["state"] == "pending"
    assert "update it" in " ".join(by_name[runs[7].name]["problems"])
    assert by_name["somebody-else"]["state"] == "pending" and by_name["empty"]["state"] == "damaged"
    assert "notes.txt" not in by_name
    visible = re.sub(r"<script.*", "", html, flags=re.DOTALL)
    for words in (
        "Not finished",
        "RuntimeError: out of memory",
        "config.json is missing",
        "could not be read",
        runs[3].name,
    ):
        assert words in visible


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is damaged"),
        (b"PK\x03\x04 not really", "is damaged"),
        (npz(head=np.eye(20, dtype=np.int32))[:-40], "is damaged"),
        (npz(head=np.eye(7, dtype=np.int32)), "does not cover the 20 classes"),
        (npz(head=np.eye(20)), "does not cover the 20 classes"),
        (npz(head=-np.eye(20, dtype=np.int64)), "counts that cannot be"),
        (a_header_that_lies((20, 20)), "is damaged"),
        (a_header_that_lies((10**9, 10**9)), "does not cover the 20 classes"),
        (np.eye(3).tobytes(), "is damaged"),
    ],
    ids=["empty", "garbage", "torn", "other classes", "floats", "negative", "no data", "huge", "no archive"],
)
def test_a_damaged_confusion_file_is_named_and_the_rest_shown(tmp_path: Path, content: bytes, words: str) -> None:
    name = fake.write_run(tmp_path, fake.config("replay"))
    folder = RunFolder(tmp_path / "runs" / name)
    write_bytes(folder.confusion_of(4), content)
    counts = {"correct": list(range(20)), "total": [100] * 20}
    append_jsonl(folder.metrics, {"experience": 4, "classifiers": {"head": counts}})
    _, data = build(tmp_path)
    assert words in " ".join(data["runs"][0]["problems"])
    assert data["confusions"] == []
    assert data["results"][0]["recalls"] == [10 * i for i in range(20)]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    name = fake.write_run(tmp_path, fake.config("replay"))
    folder = RunFolder(tmp_path / "runs" / name)
    objects = np.empty((20, 20), dtype=object)
    objects[:] = Bomb(tmp_path / "unpickled")
    write_bytes(folder.confusion_of(4), npz(head=objects))
    _, data = build(tmp_path)
    assert not (tmp_path / "unpickled").exists()
    assert data["confusions"] == []


@pytest.mark.parametrize(
    "stream",
    [
        {"sizes": "abc", "profile_counts": [1]},
        {"sizes": [4] * 5, "profile_counts": [1] * 19},
        {"sizes": [10**8], "profile_counts": [1]},
        {"sizes": [20], "profile_counts": [1.5] * 20},
        {"sizes": [4] * 5, "profile_counts": [5] * 20, "class_names": [1, 2]},
    ],
)
def test_a_stream_that_makes_no_sense_costs_the_per_class_results_only(tmp_path: Path, stream: dict) -> None:
    name = fake.write_run(tmp_path, fake.config("replay"))
    folder = RunFolder(tmp_path / "runs" / name)
    write_json(folder.stream, stream)
    write_bytes(folder.confusion_of(4), npz(head=np.eye(20, dtype=np.int32)))
    _, data = build(tmp_path)
    assert len(data["results"]) == 1 and data["cells"][0]["stats"]
    assert bool(data["runs"][0]["problems"]) == ("class_names" not in stream)


def test_runs_that_must_not_be_averaged_say_why(tmp_path: Path) -> None:
    for seed, precision in enumerate(("bf16", "fp32")):
        fake.write_run(tmp_path, fake.config("replay", seed=seed), precision=precision)
    fake.write_run(tmp_path, fake.config("dgr"), precision="bf16")
    html, data = build(tmp_path)
    refused, kept = sorted(data["cells"], key=lambda cell: "why" not in cell)
    assert "bf16 and fp32" in refused["why"] and "stats" not in refused and "stats" in kept
    assert "which must not be averaged" in re.sub(r"<script.*", "", html, flags=re.DOTALL)


def test_a_folder_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "There is no results folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    assert main(["report", str(tmp_path)]) == 0
    assert "0 of 0 done" in (tmp_path / "report.html").read_text()
    (tmp_path / "sweep.json").write_text("{")
    assert "sweep.json is damaged" in build(tmp_path)[0]


def test_long_texts_are_cut(tmp_path: Path) -> None:
    for seed in range(40):
        folder = RunFolder(tmp_path / "runs" / f"run{seed}")
        write_json(folder.config, fake.config("x" * 100_000, seed=seed, dataset__root=["y" * 100_000]))
        write_json(folder.failure, {"exception": "e" * 10_000, "traceback": "t" * 1_000_000 + "end"})
    html, data = build(tmp_path)
    assert len(html) < 600_000
    assert data["runs"][0]["traceback"].endswith("tend")


# --- confusion as text ------------------------------------------------------------------------------------------------


def unpack(text: str, side: int) -> np.ndarray:
    """What the page's script does, in Python."""
    values: list[int] = []
    i = 0
    while i < len(text):
        symbol = SYMBOLS.index(text[i])
        i += 1
        if symbol < 40:
            values.append(symbol + 1)
        elif symbol < 62:
            values += [0] * (symbol - 39)
        else:
            number = 0
            for character in text[i : i + 4]:
                number = 64 * number + SYMBOLS.index(character)
            i += 4
            values += [number] if symbol == 62 else [0] * number
    return np.array(values).reshape(side, side)


@pytest.mark.parametrize("top", [1, 2, 41, 1000, 2_000_000])
def test_packed_matrices_come_back(top: int) -> None:
    rng = np.random.default_rng(top)
    matrix = rng.integers(0, top, (60, 60)) * (rng.random((60, 60)) < 0.3)
    matrix[30:] = 0
    np.testing.assert_array_equal(unpack(pack(matrix), 60), matrix)


def test_confusions_are_pooled_until_they_fit_and_keep_their_sum() -> None:
    rng = np.random.default_rng(0)
    sums = {}
    for key in range(4):
        total = ConfusionSum.of(230)
        total.add(rng.integers(0, 30, (230, 230)), rng.integers(1, 500, 230).tolist())
        sums[key] = total
    assert len(sums[0].by_arrival) == 77 and sums[0].block == 3
    packed = pack_all(sums, 10_000)
    for key, entry in packed.items():
        assert unpack(entry["images"], entry["side"]).sum() == sums[key].by_arrival.sum()
    assert sum(len(e["arrival"]) + len(e["images"]) for e in packed.values()) <= 10_000
    assert packed[0]["block"] == 24


def test_order_by_images_puts_the_head_first() -> None:
    total = ConfusionSum.of(3)
    total.add(np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]), [10, 30, 20])
    np.testing.assert_array_equal(total.by_images, [[5, 6, 4], [8, 9, 7], [2, 3, 1]])


# --- many runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("what", ["reference", "hundred classes"])
def test_five_hundred_runs_take_under_20_s_and_5_mb(tmp_path: Path, what: str) -> None:
    if what == "reference":
        copies_of_quick(tmp_path, 500)
    else:
        hundred_classes(tmp_path, 500)
    started = time.process_time()
    path = report.write_report(tmp_path)
    assert time.process_time() - started < 20
    assert path.stat().st_size < 5_000_000
    assert len(data_of(path.read_text())["runs"]) == 500


def copies_of_quick(root: Path, number: int) -> None:
    """The committed quick sweep again and again, each time with another rho: 17 settings."""
    for i, source in enumerate(sorted((QUICK / "runs").iterdir()) * 9):
        if i == number:
            return
        config = read_json(source / "config.json")
        config["stream"]["rho"] = 100 + i // 60
        target = root / "runs" / f"{source.name.rpartition('-')[0]}-{config_hash(config)[:10]}"
        shutil.copytree(source, target)
        (target / "config.json").write_text(json.dumps(config))


def hundred_classes(root: Path, number: int) -> None:
    """Runs of 10 experiences with confusion matrices that no coding makes small."""
    rng = np.random.default_rng(0)
    for i in range(number):
        content = fake.config(f"method{i // 3 % 12:02d}", "lfs", 10, i % 3, stream__rho=float(1 + i // 36))
        name = fake.write_run(root, content)
        folder = RunFolder(root / "runs" / name)
        images = [int(500 * 100 ** (-c / 99)) for c in range(100)]
        (folder.stream).write_text(json.dumps({"sizes": [10] * 10, "profile_counts": images, "tasks": 10}))
        confusion = rng.multinomial(100, np.full(100, 0.01), 100).astype(np.int32)
        folder.confusion.mkdir()
        folder.confusion_of(9).write_bytes(npz(head=confusion))
