"""Hyper-parameters without the test set: the search section, its trials, what is chosen, and what it cannot see."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmark import cli, config, datasets
from benchmark.config.schema import RunConfig, SweepConfig, validated
from benchmark.errors import UserError
from benchmark.runs import execute
from benchmark.runs.prepare import _load_dataset, prepare
from benchmark.storage.files import write_json
from benchmark.storage.folder import RunFolder
from benchmark.streams import long_tailed_benchmark
from benchmark.sweeps.engines.worker import Listener
from benchmark.tuning import search, tune

BASE: dict[str, Any] = {
    "dataset": {"name": "digits", "classes": 6},
    "stream": {"tasks": 3, "rho": 5, "max_count": 30},
    "memory": {"budget": 3},
    "training": {
        "backbone": "convnet", "epochs": 4, "batch_size": 16, "lr": 0.05, "augmentation": "none", "precision": "fp32",
        "compile": "off",
    },
    "grid": {"stream.order_seed,training.seed": [[0, 0], [1, 1]], "strategy": ["finetune", "replay"]},
    "search": {"trials": 3, "space": {"all": {"training.lr": [0.02, 0.05, 0.1]}}},
}  # fmt: skip


def sweep_of(folder: Path, **changes: Any) -> SweepConfig:
    """The small sweep with other values: search__trials=1 stands for search.trials; grid and space as a whole."""
    content = json.loads(json.dumps(BASE))
    for key, value in changes.items():
        section, _, field = key.partition("__")
        if field:
            content.setdefault(section, {})[field] = value
        else:
            content[section] = value
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return config.load(str(path))


def trials_of(sweep: SweepConfig) -> list[list[dict[str, Any]]]:
    return [[trial.values for trial in method.trials] for method in search.methods(sweep, search.read(sweep))]


# --- the search section -----------------------------------------------------------------------------------------------


def test_a_grid_is_tried_for_every_method_its_own_values_first(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    tried = [{}, {"training.lr": 0.02}, {"training.lr": 0.1}]  # 0.05 is its own value
    assert trials_of(sweep) == [tried, tried]
    first, second = search.methods(sweep, search.read(sweep))
    assert [first.label, second.label] == ["finetune", "replay"]
    for method in (first, second):
        for trial in method.trials:
            (done,) = trial.runs
            assert (done.stream.evaluate, done.stream.holdout, done.stream.order_seed) == ("holdout", 0.2, 0)
            assert done.training.lr == trial.values.get("training.lr", 0.05)


def test_seeds_make_several_runs_of_a_trial(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, search__seeds=[5, 6])
    runs = [trial.runs for trial in search.methods(sweep, search.read(sweep))[0].trials]
    assert [[done.training.seed for done in trial] for trial in runs] == [[5, 6]] * 3
    assert len({done.hash for trial in runs for done in trial}) == 6


def test_random_search_draws_the_budget_for_every_method(tmp_path: Path) -> None:
    space = {"all": {"training.lr": {"low": 0.01, "high": 1, "log": True}, "training.weight_decay": [0, 1e-4]}}
    sweep = sweep_of(tmp_path, search={"method": "random", "trials": 30, "space": space})
    finetune, replay = trials_of(sweep)
    assert len(finetune) == len(replay) == 30 and finetune[0] == replay[0] == {}
    rates = [values["training.lr"] for values in finetune[1:]]
    assert all(0.01 <= rate <= 1 for rate in rates) and len(set(rates)) == 29
    assert 0.4 < np.mean(np.array(rates) < 0.1) < 0.8 or 5 <= sum(rate < 0.1 for rate in rates) <= 24  # log scale
    assert trials_of(sweep) == [finetune, replay]
    assert trials_of(sweep_of(tmp_path, search={"method": "random", "trials": 30, "space": space, "seed": 1}))[0] != (
        finetune
    )


def test_a_small_space_gives_fewer_trials_and_none_twice(tmp_path: Path) -> None:
    search_section = {"method": "random", "trials": 9, "space": {"all": {"training.lr": [0.02, 0.05]}, "replay": {}}}
    assert trials_of(sweep_of(tmp_path, search=search_section))[0] == [{}, {"training.lr": 0.02}]
    nothing = sweep_of(tmp_path, search__space={"finetune": {}, "replay": {"training.momentum": [0.5]}})
    assert trials_of(nothing) == [[{}], [{}, {"training.momentum": 0.5}]]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"search": {}}, "has no section search"),
        ({"search__trails": 3}, 'Unknown config key "search.trails". Did you mean "trials"?'),
        ({"search__metric": "accuracy"}, "search.metric: must be 'average_accuracy_seen'"),
        ({"search__trials": 0}, "search.trials: must be greater than or equal to 1"),
        ({"search__trials": 2}, "has 3 points, its own values included, and search.trials is 2"),
        ({"search__space": {"replay": {}}}, "search.space has nothing for finetune"),
        ({"search__space": {"all": {}, "repaly": {}}}, 'names "repaly", which this sweep does not run'),
        ({"search__space": {"all": {"training.lr": []}}}, 'search.space: "training.lr" must list at least one value'),
        ({"search__space": {"all": {"training.epochs": [1, 2]}}}, 'search.space.all cannot vary "training.epochs"'),
        ({"search__space": {"all": {"stream.rho": [1]}}}, 'search.space.all cannot vary "stream.rho"'),
        ({"search__space": {"all": {"strategy.name": ["lwf"]}}}, 'search.space.all cannot vary "strategy.name"'),
        ({"search__space": {"all": {"training.lr": {"low": 0.1, "high": 1}}}}, "which needs search.method=random"),
        ({"search__experiences": 2}, "search.experiences is for search.stream=first"),
        ({"search__other": {"stream.rho": 2}}, "search.other is for search.stream=other"),
        ({"search__stream": "other"}, "search.other must change keys of dataset and stream"),
        ({"search__stream": "other", "search__other": {"training.lr": 1}}, 'not "training.lr"'),
        ({"search__stream": "other", "search__other": {"stream.order_seed": 1}}, "that the sweep itself has"),
        ({"search__stream": "other", "search__other": {"stream.rho": 9}}, "that the sweep itself has"),
        (
            {"grid": {"training.lr": [0.1, 0.2], "strategy": ["finetune", "replay"]}},
            '"training.lr" is searched for all and varied by the grid',
        ),
    ],
)
def test_a_mistake_is_one_sentence(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        sweep = sweep_of(tmp_path, **changes)
        search.methods(sweep, search.read(sweep))
    assert sentence in str(caught.value) and str(caught.value).count("\n") == 0


def test_a_range_is_checked(tmp_path: Path) -> None:
    for wrong in ({"low": 1, "high": 1}, {"low": 0, "high": 1, "log": True}):
        section = {"method": "random", "space": {"all": {"training.lr": wrong}}}
        with pytest.raises(UserError, match="low must be below high"):
            search.read(sweep_of(tmp_path, search=section))
    with pytest.raises(UserError, match=r"search.space.all.training.lr must be a list of values, or low and high"):
        search.read(sweep_of(tmp_path, search={"method": "random", "space": {"all": {"training.lr": {"low": 1}}}}))


def test_an_override_reaches_the_search_and_no_run(tmp_path: Path) -> None:
    sweep_of(tmp_path)
    sweep = config.load(str(tmp_path / "small.yaml"), ["search.trials=7", "strategy=replay"])
    assert search.read(sweep).trials == 7 and [run.strategy.name for run in sweep.runs()] == ["replay"] * 2
    assert [method.label for method in search.methods(sweep, search.read(sweep))] == ["replay"]


def test_first_and_other_are_other_streams(tmp_path: Path) -> None:
    first = sweep_of(tmp_path, search__stream="first", search__experiences=1)
    assert search.methods(first, search.read(first))[0].trials[0].runs[0].stream.experiences == 1
    changes = {"dataset.name": "glyphs", "dataset.classes": 8, "stream.order_seed": 9}
    other = sweep_of(tmp_path, search__stream="other", search__other=changes)
    trial = search.methods(other, search.read(other))[0].trials[1].runs[0]
    assert (trial.dataset.name, trial.dataset.classes, trial.stream.order_seed) == ("glyphs", 8, 9)
    assert (trial.stream.evaluate, trial.training.lr) == ("holdout", 0.02)


@pytest.mark.parametrize("changes", [{"dataset.seed": 1}, {"dataset.test_fraction": 0.1}])
def test_trials_never_train_on_test_images_of_the_sweep(changes: dict[str, Any], tmp_path: Path) -> None:
    """`digits` has no test set of its own: another split puts its test images among the training images."""
    other = {**changes, "stream.order_seed": 9}
    sweep = sweep_of(tmp_path, search__stream="other", search__other=other)
    with pytest.raises(UserError, match="Trials would train on test images of the sweep"):
        search.methods(sweep, search.read(sweep))
    changed = sweep_of(tmp_path, search__stream="other", search__other={"dataset.name": "glyphs", "dataset.seed": 1})
    assert search.methods(changed, search.read(changed))


# --- the stream of a trial --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> datasets.ImageArrays:
    return datasets.load("digits")


STREAM = {"tasks": 5, "rho": 10, "max_count": 60, "order": "shuffled"}


def rows(stream: Any) -> list[list[int]]:
    return [sorted(experience.dataset.sample_index) for experience in stream]


def test_a_trial_is_tested_on_what_is_held_out(digits: datasets.ImageArrays) -> None:
    plain = long_tailed_benchmark(digits, holdout=0.2, **STREAM)
    blind = replace(digits, test_images=digits.test_images[:0], test_labels=digits.test_labels[:0])
    trial = long_tailed_benchmark(blind, holdout=0.2, evaluate="holdout", **STREAM)
    assert rows(trial.test_stream) == rows(plain.valid_stream)
    assert rows(trial.train_stream) == rows(plain.train_stream)
    assert not {i for part in rows(trial.test_stream) for i in part} & {i for p in rows(trial.train_stream) for i in p}
    assert trial.info.test_counts == plain.info.valid_counts and sum(trial.info.valid_counts) == 0
    for experience, groups in zip(trial.test_stream, plain.test_stream, strict=True):
        assert set(experience.dataset.targets) <= set(groups.dataset.targets)


def test_the_first_experiences_are_those_of_the_whole_stream(digits: datasets.ImageArrays) -> None:
    whole = long_tailed_benchmark(digits, **STREAM)
    first = long_tailed_benchmark(digits, experiences=2, **STREAM)
    assert rows(first.train_stream) == rows(whole.train_stream)[:2]
    assert rows(first.test_stream) == rows(whole.test_stream)[:2]
    assert first.info.sizes == (2, 2) and first.info.profile_counts == whole.info.profile_counts[:4]


def test_streams_that_cannot_be(digits: datasets.ImageArrays) -> None:
    with pytest.raises(UserError, match="experiences must be 1 to 5, the number of the stream, got 6"):
        long_tailed_benchmark(digits, experiences=6, **STREAM)
    with pytest.raises(UserError, match="leaves experience 0 without an image to evaluate on"):
        long_tailed_benchmark(digits, evaluate="holdout", **STREAM)
    with pytest.raises(UserError, match='evaluate cannot be "tset"'):
        long_tailed_benchmark(digits, evaluate="tset", **STREAM)


def test_defaults_leave_the_identity_of_a_run_alone() -> None:
    plain = validated({"stream": {"rho": 50}})
    assert validated({"stream": {"rho": 50, "evaluate": "test", "experiences": None}}).hash == plain.hash
    assert validated({"stream": {"rho": 50, "evaluate": "holdout"}}).hash != plain.hash


# --- a whole search ---------------------------------------------------------------------------------------------------


class Here:
    """Carries trials out in this process, one after the other."""

    def __init__(self, directory: Path, listener: Listener) -> None:
        self.directory, self.listener = directory, listener
        self.executed: list[str] = []

    def run(self, runs: Sequence[RunConfig], fail_fast: bool = False) -> None:
        for one in runs:
            prepare(one)
        self.listener("checked", None, None)
        for one in runs:
            self.executed.append(one.run_name)
            execute.execute(one, RunFolder(self.directory / "runs" / one.run_name), device="cpu")


@pytest.fixture
def engine() -> Callable[[Path, Listener], Here]:
    made: list[Here] = []

    def make(directory: Path, listener: Listener) -> Here:
        made.append(Here(directory, listener))
        return made[-1]

    make.made = made  # type: ignore[attr-defined]
    return make


def files(directory: Path) -> dict[str, bytes]:
    """Content of every file, without the clocks: of tuning.json, and of log.txt all but the accuracies."""
    found = {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    logs = [name for name in found if name.endswith("log.txt")]
    found |= {name: b"\n".join(re.findall(rb"accuracy.*", found[name])) for name in logs}
    record = json.loads(found["tuning.json"])
    for method in record["methods"]:
        for part in (method["budget"], *method["trials"]):
            del part["train_seconds"]
    found["tuning.json"] = json.dumps(record).encode()
    return {name: data for name, data in found.items() if Path(name).name not in {"cost.jsonl", "environment.json"}}


def test_no_file_of_a_search_depends_on_the_test_set(
    tmp_path: Path, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of(tmp_path, search__space={"all": {"training.lr": [0.1]}})
    assert tune.tune(sweep, tmp_path / "a", engine) == 0
    load = datasets.load

    def without_test_set(*args: Any, **options: Any) -> datasets.ImageArrays:
        arrays = load(*args, **options)
        labels = np.roll(arrays.test_labels, 7)
        return replace(arrays, test_images=np.zeros_like(arrays.test_images), test_labels=labels)

    plain = sweep.runs()[0]
    execute.execute(plain, RunFolder(tmp_path / "plain"), device="cpu")
    _load_dataset.cache_clear()
    with monkeypatch.context() as blinded:
        blinded.setattr(datasets, "load", without_test_set)
        assert tune.tune(sweep, tmp_path / "b", engine) == 0
        execute.execute(plain, RunFolder(tmp_path / "blind"), device="cpu")
    _load_dataset.cache_clear()  # other tests want the images as they are

    there, here = files(tmp_path / "a"), files(tmp_path / "b")
    assert there.keys() == here.keys() and {"tuning.json", "tuned.yaml", "trials.csv"} <= there.keys()
    assert [name for name in there if there[name] != here[name]] == []
    results = [RunFolder(tmp_path / name).result.read_bytes() for name in ("plain", "blind")]
    assert results[0] != results[1]  # whereas a plain run does depend on it
    trial = search.methods(sweep, search.read(sweep))[0].trials[0].runs[0]
    images = prepare(trial)[1].images
    assert images is not None and len(images.test) == 0


def test_a_search_resumes_and_its_choice_runs(tmp_path: Path, engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, out = sweep_of(tmp_path), tmp_path / "out"
    assert tune.tune(sweep, out, engine) == 0
    assert "6 trials of 2 methods, at most 3 each: 6 runs." in capsys.readouterr().out
    before = files(out)
    record = json.loads((out / "tuning.json").read_text())
    assert [m["budget"]["trials"] for m in record["methods"]] == [3, 3]
    assert record["search"]["holdout"] == 0.2 and "never the test set" in record["evaluated_on"]
    assert all(m["budget"]["images_trained"] > 0 for m in record["methods"])
    table = pd.read_csv(out / "trials.csv")
    assert table.groupby("method")["chosen"].sum().tolist() == [1, 1] and table["score"].between(0, 1).all()
    best = table.loc[table.groupby("method")["score"].idxmax()]
    assert best["chosen"].all()

    lost = record["methods"][1]["trials"][2]["runs"][0]
    shutil.rmtree(out / "runs" / lost)
    assert tune.tune(sweep, out, engine) == 0
    assert engine.made[-1].executed == [lost]
    assert files(out) == before

    chosen = config.load(str(out / "tuned.yaml"))
    assert chosen.search == {} and len(chosen.runs()) == len(sweep.runs()) == 4
    for one in chosen.runs():
        values = next(m["chosen"] for m in record["methods"] if m["strategy"]["name"] == one.strategy.name)
        assert one.training.lr == values.get("training.lr", 0.05)
        assert (one.stream.evaluate, one.stream.holdout) == ("test", 0)
    assert {(one.strategy.name, one.stream.order_seed) for one in chosen.runs()} == {
        (one.strategy.name, one.stream.order_seed) for one in sweep.runs()
    }

    another = sweep_of(tmp_path, search__space={"all": {"training.lr": [0.3]}})
    with pytest.raises(UserError, match="4 runs that are no trial of this search"):
        tune.tune(another, out, engine)


# --- what is chosen, from results made by hand ------------------------------------------------------------------------


def finish(directory: Path, one: RunConfig, **summaries: dict[str, float]) -> None:
    """A finished run whose classifiers have these summaries."""
    folder = RunFolder(directory / "runs" / one.run_name)
    write_json(folder.config, one.model_dump(mode="json"))
    classifiers = {name: {"summary": summary, "curves": {}} for name, summary in summaries.items()}
    write_json(
        folder.result,
        {"format": 1, "run": one.run_name, "classifiers": classifiers, "memory_held": [], "complete": True},
    )


def chosen_of(sweep: SweepConfig, directory: Path, scores: list[list[float | None]], metric: str) -> list[Any]:
    """What is chosen when trial t of method m, whose runs differ in their seed, has scores[m][t]; None: it failed."""
    section = search.read(sweep)
    found = search.methods(sweep, section)
    for method, row in zip(found, scores, strict=True):
        for trial, score in zip(method.trials, row, strict=True):
            for i, one in enumerate(trial.runs):
                if score is None:
                    RunFolder(directory / "runs" / one.run_name).record_failure("error", "diverged")
                else:
                    finish(directory, one, head={metric: score + 0.01 * i})
    tune.conclude(sweep, section, found, directory)
    return [m["chosen"] for m in json.loads((directory / "tuning.json").read_text())["methods"]]


METRIC = "average_accuracy_class_mean"


def test_the_best_trial_is_chosen_and_a_tie_leaves_the_own_values(tmp_path: Path) -> None:
    scores: list[list[float | None]] = [[0.5, 0.4, 0.6], [0.5, 0.5, 0.4]]
    assert chosen_of(sweep_of(tmp_path), tmp_path, scores, METRIC) == [{"training.lr": 0.1}, {}]
    assert yaml.safe_load((tmp_path / "tuned.yaml").read_text())["grid"]["strategy,training.lr"] == [
        [{"name": "finetune"}, 0.1],
        [{"name": "replay"}, 0.05],
    ]
    assert "# finetune: 3 trials, training.lr=0.1\n" in (tmp_path / "tuned.yaml").read_text()


def test_scores_are_means_over_seeds(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, search__seeds=[0, 1, 2])
    chosen_of(sweep, tmp_path, [[0.5, 0.4, 0.6], [0.5, 0.5, 0.4]], METRIC)
    trial = json.loads((tmp_path / "tuning.json").read_text())["methods"][0]["trials"][2]
    assert trial["score"] == pytest.approx(0.61) and trial["scores"] == pytest.approx([0.60, 0.61, 0.62])


def test_less_forgetting_is_better(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, search__metric="forgetting")
    scores: list[list[float | None]] = [[0.5, 0.4, 0.6], [0.5, 0.6, 0.6]]
    assert chosen_of(sweep, tmp_path, scores, "forgetting") == [{"training.lr": 0.02}, {}]


def test_a_failed_trial_counts_and_is_not_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores: list[list[float | None]] = [[None, 0.4, 0.6], [0.5, None, 0.4]]
    assert chosen_of(sweep_of(tmp_path), tmp_path, scores, METRIC) == [{"training.lr": 0.1}, {}]
    assert (tmp_path / "tuned.yaml").is_file()
    chosen_of(sweep_of(tmp_path), tmp_path / "b", [[None, None, None], [0.5, 0.4, 0.3]], METRIC)
    assert "Every trial of finetune failed, so there is no tuned.yaml" in capsys.readouterr().out
    assert not (tmp_path / "b" / "tuned.yaml").exists()


def test_nothing_is_chosen_before_every_trial_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = sweep_of(tmp_path)
    section = search.read(sweep)
    found = search.methods(sweep, section)
    for method in found:
        finish(tmp_path, method.trials[0].runs[0], head={METRIC: 0.5})
    tune.conclude(sweep, section, found, tmp_path)
    assert "the same command goes on" in capsys.readouterr().out and not (tmp_path / "tuned.yaml").exists()


def test_the_better_classifier_counts(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    section = search.read(sweep)
    found = search.methods(sweep, section)
    for method in found:
        for trial, (head, nme) in zip(method.trials, ((0.5, 0.1), (0.2, 0.7), (0.6, 0.6)), strict=True):
            finish(tmp_path, trial.runs[0], head={METRIC: head}, nme={METRIC: nme})
    tune.conclude(sweep, section, found, tmp_path)
    (first, _) = json.loads((tmp_path / "tuning.json").read_text())["methods"]
    assert first["chosen"] == {"training.lr": 0.02} and first["trials"][1]["classifier"] == "nme"


def test_methods_with_options_and_zipped_axes_come_back(tmp_path: Path) -> None:
    grid = {
        "strategy,training.epochs": [[{"name": "joint", "mode": "continue"}, 4], ["joint", 5], ["replay", 6]],
        "stream.protocol": ["lfs", "lfh"],
    }
    space = {"joint": {"training.lr": [0.3]}, "replay": {"training.momentum": [0.5]}}
    sweep = sweep_of(tmp_path, grid=grid, search__space=space)
    assert chosen_of(sweep, tmp_path, [[0.1, 0.2], [0.2, 0.1], [0.1, 0.2]], METRIC) == [
        {"training.lr": 0.3}, {}, {"training.momentum": 0.5},
    ]  # fmt: skip
    runs = config.load(str(tmp_path / "tuned.yaml")).runs()
    found = [
        (r.strategy.name, r.strategy.options, r.stream.protocol, r.training.epochs, r.training.lr, r.training.momentum)
        for r in runs
    ]
    assert found == [
        (*method, protocol, *values)
        for method, values in (
            (("joint", {"mode": "continue"}), (4, 0.3, 0.9)),
            (("joint", {}), (5, 0.05, 0.9)),
            (("replay", {}), (6, 0.05, 0.5)),
        )
        for protocol in ("lfs", "lfh")
    ]


def test_a_single_method_is_tuned_in_place(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, grid={"training.seed": [0, 1]}, strategy={"name": "lwf"}, search__space={"lwf": {}})
    assert chosen_of(sweep, tmp_path, [[0.1]], METRIC) == [{}]
    runs = config.load(str(tmp_path / "tuned.yaml")).runs()
    assert [(r.strategy.name, r.training.seed, r.training.lr) for r in runs] == [("lwf", 0, 0.05), ("lwf", 1, 0.05)]
    other = sweep_of(
        tmp_path, grid={}, strategy={"name": "lwf"}, search__space={"lwf": {"strategy.temperature": [1, 4]}}
    )
    shutil.rmtree(tmp_path / "runs")
    assert chosen_of(other, tmp_path, [[0.1, 0.2, 0.3]], METRIC) == [{"strategy.temperature": 4}]
    (one,) = config.load(str(tmp_path / "tuned.yaml")).runs()
    assert one.strategy.options == {"temperature": 4}


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_refuses_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep_of(tmp_path, search__trials=1)
    out = tmp_path / "out"
    assert cli.main(["tune", str(tmp_path / "small.yaml"), "--out", str(out)]) == 2
    assert "search.trials is 1" in capsys.readouterr().err and not out.exists()
    assert cli.main(["tune", "cifar100_balanced", "--out", str(out)]) == 2
    assert "cifar100_balanced has no section search" in capsys.readouterr().err and not out.exists()


def test_tables_of_trials_say_what_they_are(tmp_path: Path) -> None:
    from benchmark.report import write_report
    from benchmark.results.labels import TRIALS
    from benchmark.results.summary import summarise
    from benchmark.tables import published
    from benchmark.tables.notes import about

    sweep = sweep_of(tmp_path)
    for method in search.methods(sweep, search.read(sweep)):
        finish(tmp_path, method.trials[0].runs[0], head={METRIC: 0.5})
    summary, _ = summarise(tmp_path)
    assert TRIALS in about(summary)
    assert TRIALS in write_report(tmp_path).read_text("utf-8")
    with pytest.raises(UserError, match="trials of imcil tune"):
        published.comparison(summary, {})
