"""The command line: what it prints, where it writes, how fast it answers, and how it refuses bad input."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark import config
from benchmark.cli import ROOMS, main
from benchmark.storage.files import append_jsonl, read_json, write_json
from benchmark.storage.folder import RunFolder

TINY = ["dataset.name=digits", "training.epochs=1", "stream.tasks=2"]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the image cache is elsewhere."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("IMCIL_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with train/ and test/ of three classes, four and two images each."""
    rng = np.random.default_rng(0)
    for split, images in (("train", 4), ("test", 2)):
        for name in ("ant", "bee", "cat"):
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for i in range(images):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "tree"


@pytest.fixture
def refusal(workplace: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refusal(*arguments) -> the one sentence that a command ends in; nothing is left behind."""

    def check(*arguments: str) -> str:
        assert main(arguments) == 2
        out, err = capfd.readouterr()
        assert out == ""
        return sentence_of(err, workplace)

    return check


def sentence_of(err: str, workplace: Path) -> str:
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("imcil: ") and lines[0].endswith(".")
    assert list(workplace.iterdir()) == []
    return lines[0].removeprefix("imcil: ")


def command(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmark", *arguments],
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1", **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip


# --- bad input: one sentence, status 2, nothing started ---------------------------------------------------------------


def test_unknown_key(refusal: Callable[..., str]) -> None:
    for name in ("run", "sweep", "stream"):
        assert refusal(name, "digits", "training.epoch=3").startswith(
            'Unknown config key "training.epoch". Did you mean "training.epochs"? Valid choices: '
        )


def test_misspelt_strategy(refusal: Callable[..., str]) -> None:
    sentence = refusal("run", "digits", "strategy=relpay")
    assert sentence.startswith('Unknown strategy "relpay". Did you mean "replay"? Valid choices: finetune, replay,')


def test_rho_below_one(refusal: Callable[..., str]) -> None:
    assert refusal("run", "digits", "stream.rho=0.5") == "stream.rho must be greater than or equal to 1, got 0.5."
    assert refusal("sweep", "digits", "stream.rho=0") == "stream.rho must be greater than or equal to 1, got 0."


def test_more_experiences_than_classes(refusal: Callable[..., str]) -> None:
    for name in ("run", "stream"):
        sentence = refusal(name, "digits", "stream.tasks=11")
        assert sentence == "10 classes cannot fill 11 tasks of protocol lfs: use at most 10 tasks."


def test_profile_that_leaves_a_class_without_images(refusal: Callable[..., str]) -> None:
    sentence = refusal("run", "digits", "stream.max_count=9", "stream.rho=10")
    assert "would get no image" in sentence and "max_count" in sentence and "rho" in sentence
    assert "0" in refusal("run", "digits", "stream.profile=[9, 9, 9, 9, 9, 9, 9, 9, 9, 0]")


@pytest.mark.parametrize("strategy", ["replay", "lwf"])
def test_memory_that_leaves_a_class_without_images(refusal: Callable[..., str], strategy: str) -> None:
    sentence = refusal("run", "digits", f"strategy={strategy}", "memory.mode=total", "memory.budget=9")
    assert sentence.startswith("memory.budget is 9 in total, fewer than the 10 classes")


def test_memory_below_zero(refusal: Callable[..., str]) -> None:
    assert refusal("run", "digits", "memory.budget=-1") == ("memory.budget must be greater than or equal to 0, got -1.")


def test_no_memory_for_a_strategy_that_needs_one(refusal: Callable[..., str]) -> None:
    assert refusal("run", "digits", "strategy=replay", "memory.budget=0") == (
        'Strategy "replay" needs exemplars: memory.budget is 0, it must be 1 or more.'
    )


def test_unreadable_image(refusal: Callable[..., str], tree: Path) -> None:
    (tree / "train" / "bee" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing of sense")
    sentence = refusal("run", "digits", "dataset.name=folder", f"dataset.root={tree}", "stream.tasks=3")
    assert str(Path("train", "bee", "1.png")) in sentence


def test_class_without_test_images(refusal: Callable[..., str], tree: Path) -> None:
    for image in (tree / "test" / "cat").iterdir():
        image.unlink()
    sentence = refusal("run", "digits", "dataset.name=folder", f"dataset.root={tree}", "stream.tasks=3")
    assert "no test images" in sentence and sentence.endswith("tree: cat.")


def test_root_that_is_not_there(refusal: Callable[..., str], tmp_path: Path) -> None:
    for name in ("folder", "cifar100", "imagenet_subset"):
        sentence = refusal("run", "digits", f"dataset.name={name}", f"dataset.root={tmp_path}/nowhere")
        assert sentence == f'The root of dataset "{name}", {tmp_path}/nowhere, does not exist.'


def test_other_mistakes_before_any_work(refusal: Callable[..., str], tmp_path: Path) -> None:
    assert refusal("run", "digits", "dataset.classes=11") == "dataset.classes is 11, but digits has 10 classes."
    assert 'There is no config "digit". Did you mean "digits"?' in refusal("run", "digit")
    assert 'Did you mean "lfs"?' in refusal("run", "digits", "stream.protocol=lfz")
    assert "resnet20" in refusal("run", "digits", "training.backbone=resnet21")
    assert "resnet50" in refusal("run", "digits", "training.backbone=torchvision:resnte50")
    assert refusal("run", "digits", "--device", "gpu") == (
        'The device "gpu" cannot be used: choose auto, cpu, cuda (all GPUs) or one GPU such as cuda:1.'
    )
    assert "must be auto or a number" in refusal("sweep", "digits", "--jobs", "0")
    assert "--threads must be 1 or more" in refusal("run", "digits", "--threads", "0")
    file = tmp_path / "file"
    file.touch()
    assert refusal("run", "digits", "--out", str(file)) == f"--out must be a folder, and {file} is a file."
    assert "ends in .png or .pdf" in refusal("stream", "digits", "--plot", "stream.gif")
    assert refusal("stream", "digits", "--plot", f"{file}/a.png").endswith(f"and {file} is a file.")
    assert refusal("figures", str(tmp_path), "--out", f"{file}/a").endswith(f"and {file} is a file.")
    assert refusal("check", "mine.py") == '"mine.py" names a file without its class: write mine.py:Class.'


@pytest.mark.parametrize("name", ["status", "table", "figures", "retry", "report", "compare"])
def test_results_that_are_not_there(refusal: Callable[..., str], name: str) -> None:
    assert refusal(name, "nowhere") == "There is no results folder nowhere."


def test_code_files_need_consent(refusal: Callable[..., str], tmp_path: Path) -> None:
    """A plugin that a config or a results folder names is not imported; one named on the command line is."""
    plugin, trace = tmp_path / "plugin.py", tmp_path / "imported"
    plugin.write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\n")
    config = tmp_path / "mine.yaml"
    config.write_text(f"dataset: {{name: digits}}\nstrategy: '{plugin}:Mine'\n")
    for name in ("run", "sweep", "stream"):
        sentence = refusal(name, str(config))
        assert sentence == f'The config would run code from "{plugin}:Mine": give --allow-code if you trust it.'
    write_json(tmp_path / "results" / "sweep.json", {"runs": {"a": {"strategy": {"name": f"{plugin}:Mine"}}}})
    assert "give --allow-code" in refusal("retry", str(tmp_path / "results"))
    assert not trace.exists()
    assert 'has no recipe class "Mine"' in refusal("run", str(config), "--allow-code")
    assert trace.exists()
    trace.unlink()
    assert 'has no recipe class "Mine"' in refusal("run", "digits", f"strategy={plugin}:Mine")
    assert trace.exists()


def test_run_refuses_in_a_process_of_its_own(workplace: Path) -> None:
    done = command("run", "digits", "strategy=relpay", cwd=workplace)
    assert (done.returncode, done.stdout) == (2, "")
    assert 'Did you mean "replay"?' in sentence_of(done.stderr, workplace)


def test_sweep_refuses_before_any_run_and_leaves_a_folder_as_it_was(workplace: Path, tmp_path: Path) -> None:
    """The mistake shows only against the data, in a worker. The folder may hold anything."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    done = command("sweep", "digits", "stream.tasks=11", "--jobs", "1", "--out", str(mine), cwd=workplace)
    assert (done.returncode, done.stdout) == (2, "")
    assert "10 classes cannot fill 11 tasks" in sentence_of(done.stderr + "", workplace)
    assert "The run is" not in done.stderr  # a mistake of all runs, told once
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [[], ["trian"], ["run"], ["list"], ["list", "fonts"], ["run", "digits", "--speed", "3"], ["status"],
     ["run", "digits", "epochs"], ["status", "a", "b=1"], ["sweep", "digits", "--jobs"]],
)  # fmt: skip
def test_usage_errors_end_with_status_2(
    arguments: list[str], workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    assert status == 2
    err = capfd.readouterr().err
    if arguments:  # one line, which says where to look; without a command all of them are listed
        assert err.count("\n") == 1 and err.startswith("imcil")
    else:
        assert "sweep" in err and "figures" in err
    assert list(workplace.iterdir()) == []


def test_a_figure_needs_no_condition(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["figures"])
    assert "required: directory;" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["run", "sweep", "retry", "stream", "status", "table", "figures", "check", "list"])
def test_every_command_explains_itself(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: imcil {name}" in capfd.readouterr().out


def test_overrides_may_stand_before_and_after_options(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "digits", "--plot", "a.png", "stream.tasks=2", "stream.rho=1"]) == 0
    one = capfd.readouterr().out.replace("a.png", "b.png")
    assert main(["stream", "digits", "stream.tasks=2", "stream.rho=1", "--plot", "b.png"]) == 0
    assert capfd.readouterr().out == one
    assert "2 experiences" in one


def test_a_closed_pipe_is_no_error(workplace: Path) -> None:
    listing = subprocess.Popen(
        [sys.executable, "-m", "benchmark", "list", "strategies"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert listing.stdout is not None and listing.stderr is not None
    listing.stdout.close()
    assert listing.stderr.read() == ""
    assert listing.wait() in (0, 1)


# --- answers at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], *(["list", room] for room in ROOMS)])
def test_help_and_list_need_less_than_a_second_and_no_torch(arguments: list[str]) -> None:
    code = (
        "import atexit, sys; from benchmark.cli import main\n"
        "heavy = {'torch', 'avalanche', 'pandas', 'matplotlib'}\n"
        "atexit.register(lambda: print('heavy:', sorted(heavy & set(sys.modules))))\n"
        f"main({arguments})"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1.0


@pytest.mark.parametrize(
    ("room", "names"),
    [
        ("datasets", ["digits", "glyphs", "cifar100", "folder", "imagenet_subset", "food101"]),
        ("strategies", ["finetune", "replay", "lwf", "icarl", "balanced_softmax", "joint_bsce", "dgr"]),
        ("configs", ["quick", "digits", "cifar100_lt", "cifar20_lt"]),
        ("backbones", ["convnet", "resnet20", "resnet32", "resnet18"]),
    ],
)
def test_list_names_what_a_config_can_name(
    room: str, names: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list", room]) == 0
    lines = capfd.readouterr().out.splitlines()
    words = [line.split() for line in lines]
    assert {entry[0] for entry in words} >= set(names)
    assert all(len(entry) > 3 for entry in words)  # each with a description


# --- stream -----------------------------------------------------------------------------------------------------------


def test_stream_prints_a_table_and_draws(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "digits"]) == 0
    out = capfd.readouterr().out
    assert "digits, lfs, 5 experiences" in out
    assert sum(line.lstrip(" │").startswith(str(t)) for t in range(5) for line in out.splitlines()) >= 5
    assert list(workplace.iterdir()) == []
    assert main(["stream", "digits", "--plot", "stream.png"]) == 0
    assert "Drawn to stream.png." in capfd.readouterr().out
    with Image.open(workplace / "stream.png") as image:
        assert min(image.size) > 100
    assert main(["stream", "digits", "--plot", "new/stream.PDF"]) == 0
    assert (workplace / "new" / "stream.PDF").read_bytes().startswith(b"%PDF")


def test_a_pipe_gets_whole_lines(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["list", "configs"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == len(config.names())
    assert main(["stream", "digits", "stream.tasks=2"]) == 0
    assert "4, 6, 2, 7, … (1 more)" in capfd.readouterr().out


# --- run and status ---------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_run_prints_its_result_and_is_not_repeated(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "digits", "strategy=icarl", *TINY]
    assert main(arguments) == 0
    first = capfd.readouterr().out
    (folder,) = (workplace / "results" / "digits" / "runs").iterdir()
    result = read_json(folder / "result.json")
    for classifier in ("head", "nme"):
        accuracy = result["classifiers"][classifier]["summary"]["average_accuracy_seen"]
        assert f"{classifier}: " in first and f"average_accuracy_seen {100 * accuracy:.2f}" in " ".join(first.split())
    assert f"memory held at the end: {sum(result['memory_held'])} images" in first
    assert (workplace / "results" / "digits" / "summary.csv").is_file()

    before = contents(workplace)
    assert main(arguments) == 0
    again = capfd.readouterr().out
    assert "is finished; its result is shown" in " ".join(again.split())
    assert f"average_accuracy_seen {100 * accuracy:.2f}" in " ".join(again.split())
    assert contents(workplace) == before

    assert main(["status", "results/digits"]) == 0
    assert "1 runs: 1 done" in capfd.readouterr().out


def test_a_run_that_fails_says_why_and_ends_with_status_1(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "run",
        "digits",
        *TINY,
        "strategy=finetune",
        "training.lr=1e30",
        "training.precision=fp32",
        "--out",
        "o",
    ]
    for attempt in (1, 2):
        assert main(arguments) == 1
        err = capfd.readouterr().err
        assert err.startswith("imcil: NonFiniteLossError: the loss became ") and "failure.json" in err
        assert len(err.splitlines()) == 1
        (folder,) = (workplace / "o" / "runs").iterdir()
        failure = read_json(folder / "failure.json")
        assert (failure["kind"], failure["attempt"]) == ("non-finite loss", attempt)
        assert "Traceback" in failure["traceback"]
        assert not (folder / "result.json").exists()
    assert main(["status", "o"]) == 0
    out = capfd.readouterr().out
    assert "1 runs: 1 failed" in out and f"{folder.name}: NonFiniteLossError: the loss became " in out


def test_a_run_that_is_being_run_elsewhere_is_left_alone(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from benchmark import config

    name = config.load("digits", TINY).base.run_name
    folder = RunFolder(workplace / "o" / "runs" / name)
    with folder.claim():
        assert main(["run", "digits", *TINY, "--out", "o"]) == 1
        assert capfd.readouterr().err == f"imcil: {name} is being run by another process.\n"
        write_json(folder.config, {})
        assert main(["status", "o"]) == 0
    assert not folder.metrics.exists()


def test_status_counts_every_state(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = workplace / "runs"
    config = {"dataset": {"name": "digits"}}
    for name in ("failed", "interrupted", "running"):
        write_json(runs / name / "config.json", config)
        write_json(runs / name / "stream.json", {"tasks": 5})
    write_json(runs / "failed" / "failure.json", {"exception": "ValueError: [red]no\x1b[2J way", "attempt": 1})
    for name in ("interrupted", "running"):
        for t in range(3):
            append_jsonl(runs / name / "metrics.jsonl", {"experience": t})
    (runs / "damaged").mkdir()
    (runs / "damaged" / "config.json").write_text("{")
    write_json(workplace / "sweep.json", {"runs": dict.fromkeys(("failed", "running", "not begun"), config)})
    with RunFolder(runs / "running").claim():
        assert main(["status", "."]) == 0
    out = capfd.readouterr().out
    rows = {" ".join(line.split()) for line in out.splitlines()}
    assert {"failed failed 0/5", "interrupted interrupted 3/5", "running running 3/5", "not begun pending"} <= rows
    assert "damaged damaged" in rows and "damaged: config.json is damaged" in rows
    assert "failed: ValueError: [red]no [2J way" in out and "\x1b" not in out
    assert "5 runs: 1 running, 1 failed, 1 interrupted, 1 pending, 1 damaged" in out


def test_status_imports_no_torch_and_no_method(workplace: Path) -> None:
    write_json(workplace / "sweep.json", {"runs": {"a": {"strategy": {"name": "nowhere.py:Mine"}}}})
    code = "import sys; from benchmark.cli import main; main(['status', '.']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=workplace, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "1 runs: 1 pending" in done.stdout


# --- check ------------------------------------------------------------------------------------------------------------


def test_check_takes_a_name_or_a_file(
    refusal: Callable[..., str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert 'Did you mean "finetune"?' in refusal("check", "finetun")
    assert "does not exist" in refusal("check", str(tmp_path / "none.py:Mine"))
    assert main(["check", "finetune"]) == 0
    assert "finetune" in capfd.readouterr().out
