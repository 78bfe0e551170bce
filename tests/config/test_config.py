"""Configs: reading, overriding, grids, the identity of a run, and a sentence for every mistake."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark import config
from benchmark.config.checks import build_recipe, check
from benchmark.config.loading import CONFIGS, load
from benchmark.config.overrides import override
from benchmark.config.schema import NOT_SCIENCE, RunConfig, validated
from benchmark.config.sections import StrategyConfig
from benchmark.errors import UserError
from strategies import registry
from strategies.training.schedule import Schedule

HEADLINE = {
    "finetune", "replay", "lwf", "icarl", "bic", "wa", "lucir", "balanced_softmax", "dgr", "joint_bsce",
}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """write(text or mapping) -> path of a config file."""

    def make(content: str | dict[str, Any]) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(path)

    return make


def mistake(source: str, *overrides: str) -> str:
    """The sentence that loading ends in."""
    with pytest.raises(UserError) as caught:
        load(source, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith((".", ".)"))
    return sentence


def points(sweep: config.SweepConfig, *keys: str) -> list[tuple[Any, ...]]:
    """The values of dotted keys in every run."""

    def value(run: RunConfig, key: str) -> Any:
        section, _, field = key.partition(".")
        return getattr(getattr(run, section), field)

    return [tuple(value(run, key) for key in keys) for run in sweep.runs()]


# --- shipped configs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", config.names())
def test_shipped_config_expands_and_says_what_it_is(name: str) -> None:
    sweep = load(name)
    runs = sweep.runs()
    assert len({run.run_name for run in runs}) == len(runs) >= 1
    assert sweep.name == name
    for run in runs:
        assert RunConfig.model_validate(run.model_dump(mode="json")).run_name == run.run_name
    for strategy in {run.strategy.model_dump_json(): run.strategy for run in runs}.values():
        build_recipe(strategy)  # every option exists
    assert (CONFIGS / f"{name}.yaml").read_text().startswith("# ")
    check(load(name).base)  # what `imcil run` and `imcil stream` take
    assert len(config.describe(name)) > 20


def test_the_shipped_configs_are_all_there() -> None:
    assert set(config.names()) >= {
        "quick", "digits", "cifar20_lt", "cifar100_lt", "cifar100_lt_parity", "cifar100_balanced", "cifar100_ltr",
        "imagenet_subset_lt", "imagenet_full", "food101_lt",
    }  # fmt: skip


def test_quick_compares_the_headline_methods_under_both_protocols_with_three_seeds() -> None:
    runs = load("quick").runs()
    cells = Counter((run.strategy.name, run.stream.protocol) for run in runs)
    assert cells == {(method, protocol): 3 for method in HEADLINE for protocol in ("lfs", "lfh")}
    seeds = {(run.training.seed, run.stream.order_seed) for run in runs}
    assert len(seeds) == 3
    assert {(run.dataset.name, run.dataset.classes, run.stream.max_count, run.stream.rho) for run in runs} == {
        ("glyphs", 50, 200, 100)
    }


def test_cifar100_lt_is_the_published_protocol() -> None:
    base = load("cifar100_lt").base
    assert (base.stream.protocol, base.stream.tasks, base.stream.order, base.stream.ranks) == (
        "lfs",
        10,
        "order_a",
        "by_label",
    )
    assert (base.stream.rho, base.stream.max_count, base.stream.holdout) == (100, 500, 0)
    assert (base.memory.budget, base.memory.mode) == (20, "per_class")
    assert (base.training.backbone, base.training.epochs, base.training.augmentation) == ("resnet32", 160, "crop")
    parity = load("cifar100_lt_parity").base
    assert (parity.stream.compat, parity.training.augmentation) == ("lt-cil", "resized_crop")


def test_cifar20_lt_and_its_methods_have_every_single_label_method_once_on_one_stream() -> None:
    base, methods = load("cifar20_lt"), load("cifar20_lt_methods")
    assert methods.base.model_dump(exclude={"strategy"}) == base.base.model_dump(exclude={"strategy"})
    cells = Counter((run.strategy.name, run.stream.protocol) for run in methods.runs())
    others = {name for name in registry.NAMES if registry.get(name).task_kind == "single"}
    others -= {run.strategy.name for run in base.runs()}
    assert cells == {(method, protocol): 3 for method in others for protocol in ("lfs", "lfh")}
    seeds = [(run.stream.subset_seed, run.training.seed) for run in methods.runs()]
    assert seeds == sorted(seeds) and set(seeds) == {(r.stream.subset_seed, r.training.seed) for r in base.runs()}


@pytest.mark.parametrize("name", ["crossing", "cifar100_balanced"])
def test_podnet_alone_has_its_cosine_schedule(name: str) -> None:
    runs = load(name).runs()
    assert {(run.strategy.name, run.training.schedule) for run in runs} == {
        (run.strategy.name, "cosine" if run.strategy.name == "podnet" else "multistep") for run in runs
    }
    assert any(run.strategy.name == "podnet" for run in runs)
    without = load(name, ["strategy=replay"]).runs()
    assert {run.run_name for run in without} == {run.run_name for run in runs if run.strategy.name == "replay"}


def test_the_survey_s_rates_fall_after_80_and_120_of_170_epochs() -> None:
    training = load("cifar100_survey").base.training
    schedule = Schedule(training.schedule, tuple(training.milestones), training.gamma)
    factors = [schedule.factor(epoch, training.epochs) for epoch in range(training.epochs)]
    assert factors == pytest.approx([1.0] * 80 + [0.1] * 40 + [0.01] * 50)


# --- overrides --------------------------------------------------------------------------------------------------------


def test_overrides_set_any_field_and_are_typed_by_yaml() -> None:
    base = load(
        "digits",
        [
            "training.epochs=2", "training.lr=1e-3", "stream.protocol=[5, 5]", "dataset.classes=[0, 1, 2]",
            "dataset.root=~/data", "stream.rho=1", "memory.mode=total",
        ],
    ).base  # fmt: skip
    assert base.training.epochs == 2 and base.training.lr == 0.001
    assert base.stream.protocol == [5, 5] and base.dataset.classes == [0, 1, 2]
    assert base.dataset.root == "~/data" and base.stream.rho == 1 and base.memory.mode == "total"


@pytest.mark.parametrize(("text", "value"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on")])
def test_compile_takes_a_bare_on_which_yaml_reads_as_true(write: Any, text: str, value: str) -> None:
    assert load("digits", [f"training.compile={text}"]).base.training.compile == value
    assert load(write(f"training: {{compile: {text}}}")).base.training.compile == value


def test_strategy_is_short_for_its_name() -> None:
    short, long = load("digits", ["strategy=lwf"]), load("digits", ["strategy.name=lwf"])
    assert short.base == long.base and short.base.strategy.name == "lwf"
    assert "strategy" not in short.grid and "strategy" not in long.grid


def test_options_of_a_strategy_go_with_its_name(write: Any) -> None:
    path = write("strategy: {name: lwf, temperature: 3}")
    assert load(path).base.strategy.options == {"temperature": 3}
    assert load(path, ["strategy=replay"]).base.strategy.options == {}
    assert load(path, ["strategy=lwf"]).base.strategy.options == {"temperature": 3}
    assert load(path, ["strategy.temperature=4"]).base.strategy.options == {"temperature": 4}
    for order in (["strategy=icarl", "strategy.temperature=4"], ["strategy.temperature=4", "strategy=icarl"]):
        strategy = load(path, order).base.strategy
        assert (strategy.name, strategy.options) == ("icarl", {"temperature": 4})


def test_a_file_may_give_a_strategy_by_name_alone(write: Any) -> None:
    path = write("strategy: lwf")
    assert load(path).base.strategy == StrategyConfig(name="lwf")
    assert load(path, ["strategy.temperature=4"]).base.strategy.options == {"temperature": 4}


def test_override_leaves_its_input_alone() -> None:
    content = {"training": {"epochs": 1}, "strategy": "lwf"}
    changed = override(content, {"training.epochs": 2, "strategy": {"name": "dgr"}})
    assert changed == {"training": {"epochs": 2}, "strategy": {"name": "dgr"}}
    assert content == {"training": {"epochs": 1}, "strategy": "lwf"}


# --- grids ------------------------------------------------------------------------------------------------------------


def test_grid_is_every_combination_the_last_key_fastest(write: Any) -> None:
    sweep = load(write({"grid": {"stream.rho": [1, 10], "training.seed": [0, 1, 2]}}))
    expected = [(rho, seed) for rho in (1, 10) for seed in (0, 1, 2)]
    assert points(sweep, "stream.rho", "training.seed") == expected


def test_zipped_keys_vary_together(write: Any) -> None:
    sweep = load(write({"grid": {"stream.protocol, stream.tasks": [["lfs", 10], ["lfh", 5]], "training.seed": [0, 1]}}))
    assert points(sweep, "stream.protocol", "stream.tasks", "training.seed") == [
        ("lfs", 10, 0), ("lfs", 10, 1), ("lfh", 5, 0), ("lfh", 5, 1),
    ]  # fmt: skip


def test_equal_points_run_once(write: Any) -> None:
    sweep = load(
        write({"grid": {"strategy": ["replay", {"name": "replay"}, "lwf", "replay"], "stream.rho": [100, 1e2]}})
    )
    assert [run.strategy.name for run in sweep.runs()] == ["replay", "lwf"]


def test_without_a_grid_there_is_one_run(write: Any) -> None:
    assert len(load(write("")).runs()) == len(load(write({"grid": None})).runs()) == 1


def test_an_override_pins_a_grid_key(write: Any) -> None:
    path = write({"grid": {"stream.rho": [1, 10], "training.seed": [0, 1]}})
    assert points(load(path, ["stream.rho=10"]), "stream.rho", "training.seed") == [(10, 0), (10, 1)]
    assert points(load(path, ["stream.rho=50"]), "stream.rho", "training.seed") == [(50, 0), (50, 1)]


def test_an_override_of_a_zipped_key_keeps_the_points_that_match(write: Any) -> None:
    keys = "stream.protocol", "stream.tasks", "training.seed"
    path = write({"grid": {",".join(keys): [["lfs", 10, 0], ["lfs", 20, 1], ["lfh", 5, 2]]}})
    assert points(load(path, ["stream.protocol=lfs"]), *keys) == [("lfs", 10, 0), ("lfs", 20, 1)]
    assert points(load(path, ["stream.protocol=lfs", "stream.tasks=20"]), *keys) == [("lfs", 20, 1)]
    assert points(load(path, ["training.seed=2"]), *keys) == [("lfh", 5, 2)]
    # no point has this seed: it replaces theirs
    assert points(load(path, ["training.seed=7"]), *keys) == [("lfs", 10, 7), ("lfs", 20, 7), ("lfh", 5, 7)]


def test_an_override_gives_one_grid_key_other_values(write: Any) -> None:
    path = write({"grid": {"training.seed": [0, 1], "stream.protocol,stream.tasks": [["lfs", 5], ["lfh", 4]]}})
    sweep = load(path, ["grid.training.seed=[7]", "grid.training.lr=[0.1, 0.2]"])
    assert [(run.stream.protocol, run.training.seed, run.training.lr) for run in sweep.runs()] == [
        (protocol, 7, lr) for protocol in ("lfs", "lfh") for lr in (0.1, 0.2)
    ]
    alone = load(path, ["grid.stream.tasks=[2, 3]"])  # taken out of the key it shared
    assert {(run.stream.protocol, run.stream.tasks) for run in alone.runs()} == {
        (protocol, tasks) for protocol in ("lfs", "lfh") for tasks in (2, 3)
    }
    sentence = 'The grid key "training.seed" must have a list of values, such as [1, 2], got 3.'
    assert mistake(path, "grid.training.seed=3") == sentence
    assert "Unknown config key" in mistake(path, "grid.training.sed=[3]")


def test_pinning_a_strategy_keeps_the_options_of_its_grid_point() -> None:
    pinned = load("quick", ["strategy=joint_bsce"])
    assert pinned.base.strategy.options == {"mode": "continue"}
    whole = {run.run_name for run in load("quick").runs() if run.strategy.name == "joint_bsce"}
    assert {run.run_name for run in pinned.runs()} == whole
    changed = load("quick", ["strategy=joint_bsce", "strategy.mode=scratch"])
    assert {run.strategy.options["mode"] for run in changed.runs()} == {"scratch"}


def test_an_option_for_one_method_is_not_lost_in_a_grid_of_several() -> None:
    assert "add strategy=NAME" in mistake("quick", "strategy.mode=scratch")


def test_grid_mistakes(write: Any) -> None:
    assert "must have a list of values" in mistake(write({"grid": {"training.seed": 3}}))
    assert "must have a list of values" in mistake(write({"grid": {"training.seed": []}}))
    assert "must map each dotted key to a list" in mistake(write({"grid": [1, 2]}))
    assert "must be a list of 2 values" in mistake(
        write({"grid": {"stream.protocol,stream.tasks": [["lfs", 1], ["lfh"]]}})
    )
    assert "must be a list of 2 values" in mistake(
        write({"grid": {"stream.protocol,stream.tasks": ["lfs", "lfh"]}}), "stream.tasks=1"
    )
    assert 'Did you mean "training.seed"?' in mistake(write({"grid": {"training.seeds": [1]}}))
    assert "stream.rho must be greater than or equal to 1, got 0.5" in mistake(
        write({"grid": {"stream.rho": [10, 0.5]}})
    )
    assert "Unknown config key" in mistake(write({"grid": {1: [2]}}))


# --- identity of a run ------------------------------------------------------------------------------------------------


def test_hash_ignores_where_data_lie_and_what_is_only_reported() -> None:
    base = validated({})
    for same in ({"dataset": {"root": "/data"}}, {"metrics": {"diagnostics": True}}):
        assert validated(same).hash == base.hash
    assert (
        validated({"dataset": {"name": "digits", "root": "a"}}).hash == validated({"dataset": {"name": "digits"}}).hash
    )


def test_hash_does_not_depend_on_defaults_written_out() -> None:
    base = validated({})
    assert RunConfig.model_validate(base.model_dump(mode="json")).hash == base.hash
    assert validated({"stream": {"rho": 100}, "memory": {"budget": 20}}).hash == base.hash


def test_hash_is_the_same_for_ever() -> None:
    """Finished runs would be orphaned if this changed."""
    assert validated({}).run_name == "cifar100-lfs10-replay-s0-44136fa355"
    # sha256 of {"dataset":{"name":"digits"},"strategy":{"name":"lwf","temperature":3},"stream":{"rho":10,"tasks":5},…}
    changed = {
        "dataset.name": "digits",
        "stream.tasks": 5,
        "stream.rho": 10.0,
        "strategy.name": "lwf",
        "training.seed": 1,
    }
    content = override({}, {**changed, "strategy.temperature": 3})
    assert validated(content).run_name == "digits-lfs5-lwf-s1-8c0eec76e4"


def all_changes() -> list[dict[str, Any]]:
    """One scientific change for every field of every section."""
    other: dict[str, Any] = {
        "dataset.name": "digits", "dataset.classes": 5, "dataset.test_fraction": 0.5, "dataset.train_per_class": 7,
        "dataset.test_per_class": 7, "dataset.resolution": 64, "dataset.seed": 1, "dataset.train_images": 7,
        "dataset.test_images": 7, "dataset.rho": 5, "stream.assignment": "disjoint", "stream.protocol": "lfh",
        "stream.tasks": 5, "stream.profile": "step", "stream.rho": 10, "stream.max_count": 50, "stream.ranks": "random",
        "stream.order": "order_a", "stream.subset": "first", "stream.holdout": 0.1, "stream.compat": "lt-cil",
        "stream.order_seed": 1, "stream.subset_seed": 1, "stream.rank_seed": 1, "stream.evaluate": "holdout",
        "stream.experiences": 2, "strategy.name": "lwf",
        "memory.budget": 5, "memory.mode": "total", "memory.selection": "random", "training.backbone": "resnet20",
        "training.epochs": 2, "training.batch_size": 64, "training.last_batch": "even", "training.lr": 0.2,
        "training.momentum": 0.5,
        "training.weight_decay": 0, "training.schedule": "cosine", "training.milestones": [0.3], "training.gamma": 0.2,
        "training.warmup_epochs": 1, "training.augmentation": "none", "training.precision": "fp32",
        "training.compile": "off", "training.seed": 1, "metrics.groups": [10, 50],
    }  # fmt: skip
    fields = {
        f"{section}.{field}"
        for section, info in RunConfig.model_fields.items()
        for field in info.annotation.model_fields  # type: ignore[union-attr]
    }
    assert set(other) == fields - set(NOT_SCIENCE)
    return [{key: value} for key, value in other.items()]


def test_hash_changes_with_everything_else() -> None:
    hashes = {validated(override({}, change)).hash for change in all_changes()}
    assert len(hashes) == len(all_changes())
    assert validated({}).hash not in hashes
    assert validated({"strategy": {"name": "replay", "option": 1}}).hash not in hashes


def test_hash_of_a_code_file_is_its_content_not_its_place(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "elsewhere.py"
    one.write_text("class Mine: ...")
    two.write_text("class Mine: ...")

    def name_of(path: Path, attribute: str = "Mine") -> str:
        return validated({"strategy": f"{path}:{attribute}"}).run_name

    assert name_of(one) == name_of(two)
    assert "-mine-" in name_of(one)
    assert name_of(one, "Other").rpartition("-")[2] != name_of(one).rpartition("-")[2]
    before = name_of(two)
    two.write_text("class Mine: changed = 1")
    assert name_of(two) != before
    backbones = [validated({"training": {"backbone": f"{path}:Mine"}}).hash for path in (one, two)]
    assert backbones[0] != backbones[1]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_config_that_is_not_there(tmp_path: Path) -> None:
    assert 'There is no config "quik". Did you mean "quick"?' in mistake("quik")
    assert "does not exist" in mistake(str(tmp_path / "none.yaml"))
    assert "does not exist" in mistake(str(tmp_path / "none.yml"))


def test_files_that_are_no_configs(tmp_path: Path, write: Any) -> None:
    assert "is not valid YAML" in mistake(write("training: [1, 2"))
    assert "is not valid YAML" in mistake(write("training: {epochs: 1}\n  lr: 2"))
    assert mistake(write("training: {\n")).endswith(
        "mine.yaml is not valid YAML (line 2): expected the node content, but found '<stream end>'."
    )
    twice = mistake(write("training:\n  lr: 1\n  epochs: 2\n  lr: 3"))
    assert twice.endswith('is not valid YAML (line 4): "lr" stands there twice.')
    assert mistake("digits.yaml").endswith("does not exist; the one that ships with imcil is named digits.")
    assert "must hold sections" in mistake(write("- 1\n- 2"))
    assert "must hold sections" in mistake(write("just text"))
    binary = tmp_path / "image.yaml"
    binary.write_bytes(b"\x89PNG\xff\xfe\x00")
    assert "cannot be read as text" in mistake(str(binary))


def test_yaml_cannot_make_objects(write: Any) -> None:
    assert "is not valid YAML" in mistake(write("training: !!python/object/apply:os.getcwd []"))


def test_unknown_keys_come_with_a_suggestion(write: Any) -> None:
    assert 'Unknown config key "trainin". Did you mean "training"?' in mistake(write({"trainin": {"epochs": 1}}))
    assert 'Unknown config key "1".' in mistake(write({1: 2}))
    sentence = mistake(write({"training": {"epoch": 1}}))
    assert 'Unknown config key "training.epoch". Did you mean "training.epochs"?' in sentence
    assert "training.lr" in sentence and "dataset.name" not in sentence  # the valid choices are those of the section
    assert 'Unknown config key "traning". Did you mean "training"?' in mistake("digits", "traning.lr=1")
    assert "Valid choices: training.epochs." in mistake("digits", "epochs=3")
    assert "Valid choices: dataset," in mistake("digits", "nonsense=3")
    assert 'Unknown config key "training.lr.x"' in mistake("digits", "training.lr.x=3")


def test_texts_that_are_no_overrides() -> None:
    assert "write key=value" in mistake("digits", "training.epochs")
    assert "write key=value" in mistake("digits", "=3")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("training.epochs=two", "training.epochs must be a valid integer, got 'two'."),
        ("training.epochs=2.5", "training.epochs must be a valid integer, got 2.5."),
        ("training.epochs=yes", "training.epochs must be a number, got True."),
        ("training.epochs=0", "training.epochs must be greater than or equal to 1, got 0."),
        ("training.epochs=", "training.epochs must be a valid integer, got None."),
        ("training.lr=-1", "training.lr must be greater than 0, got -1."),
        ("training.seed=-1", "training.seed must be greater than or equal to 0, got -1."),
        ("stream.order_seed=-1", "stream.order_seed must be greater than or equal to 0, got -1."),
        (
            "training.milestones=[80, 120]",
            "training.milestones must be fractions of the epochs, above 0 and below 1 (80 of 160 epochs are 0.5), "
            "got [80, 120].",
        ),
        ("training.warmup_epochs=15", "training.warmup_epochs must be less than training.epochs (15), got 15."),
        ("training.lr=.inf", "training.lr must be a finite number, got inf."),
        ("training.precision=fp16", "training.precision must be 'auto', 'fp32' or 'bf16', got 'fp16'."),
        ("stream.rho=0.5", "stream.rho must be greater than or equal to 1, got 0.5."),
        ("stream.rho=.nan", "stream.rho must be a finite number, got nan."),
        ("stream.protocol=5", "stream.protocol must be a valid string, got 5."),
        ("stream.holdout=1", "stream.holdout must be less than 1, got 1."),
        ("dataset.classes=2.5", "dataset.classes must be a valid integer, got 2.5."),
        ("memory.budget=-1", "memory.budget must be greater than or equal to 0, got -1."),
        ("memory.mode=percent", "memory.mode must be 'per_class' or 'total', got 'percent'."),
        ("metrics.groups=[100, 20]", "metrics.groups must be two counts, the smaller first, got [100, 20]."),
        ("training=3", "The section training must hold keys and values, got 3."),
        ("memory=20", "The section memory must hold keys and values, got 20: write memory.budget=20."),
        ("strategy=5", "The section strategy must hold keys and values, got 5."),
        (
            "strategy=no/file.py:Mine",
            'The file "no/file.py" of strategy.name cannot be read: No such file or directory.',
        ),
    ],
)
def test_wrong_values_are_told_in_one_sentence(text: str, sentence: str) -> None:
    assert mistake("digits", text) == sentence


def test_sections_that_hold_no_keys(write: Any) -> None:
    assert mistake(write({"training": 3})) == "The section training must hold keys and values, got 3."
    assert mistake(write("training:"), "training.lr=1") == "The section training must hold keys and values."


def test_several_mistakes_are_counted_once_each() -> None:
    sentence = mistake("digits", "stream.protocol=5", "training.lr=-1", "memory.budget=-1")
    assert sentence == "stream.protocol must be a valid string, got 5. (2 more mistakes.)"


# --- strategies and their options -------------------------------------------------------------------------------------

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar, Literal
from strategies.replay import Replay

@dataclass(frozen=True, kw_only=True)
class Mine(Replay):
    name: ClassVar[str] = "mine"
    strength: float = 1.0
    rule: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.strength < 0:
            raise ValueError(f"strength must be 0 or more, got {self.strength}.")

class NoRecipe:
    pass
"""


def recipe_mistake(name: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        build_recipe(StrategyConfig(name=name, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_options_are_checked_by_name_and_type(tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    mine = f"{path}:Mine"
    recipe = build_recipe(StrategyConfig(name=mine, strength="2e-1", rule="b"))
    assert (recipe.strength, recipe.rule) == (0.2, "b")
    assert (
        'has no option "strenght". Did you mean "strength"? Valid choices: replay_mode, rule, strength.'
        in recipe_mistake(mine, strenght=1)
    )
    assert recipe_mistake(mine, strength="strong") == "strategy.strength must be a valid number, got 'strong'."
    assert recipe_mistake(mine, rule="c") == "strategy.rule must be 'a' or 'b', got 'c'."
    assert (
        recipe_mistake(mine, strength=-1)
        == f'Strategy "{mine}" refuses its options: strength must be 0 or more, got -1.0.'
    )
    assert 'has no option "x". It takes no options.' in recipe_mistake("gdumb", x=1)


def test_strategies_that_cannot_be_had(tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    assert 'Unknown strategy "replai". Did you mean "replay"?' in recipe_mistake("replai")
    assert 'has no recipe class "Yours". Valid choices: Replay, Mine.' in recipe_mistake(f"{path}:Yours")
    assert '"NoRecipe" in ' in (sentence := recipe_mistake(f"{path}:NoRecipe")) and "derive it from" in sentence
    assert "names a file without its class: write plugin.py:Class." in recipe_mistake("plugin.py")
    assert "does not exist" in recipe_mistake(f"{tmp_path}/none.py:Mine")
    path.write_text("import a_module_that_is_not_there")
    assert "cannot be imported: ModuleNotFoundError: No module named" in recipe_mistake(f"{path}:Mine")
    path.write_text("first = 1\nsecond = frist + 1\n")
    assert recipe_mistake(f"{path}:Mine").endswith("name 'frist' is not defined (plugin.py, line 2).")
    path.write_text(PLUGIN.replace("strength: float = ", "strength: float  # "))
    assert recipe_mistake(f"{path}:Mine").endswith('needs a value for "strength", which has no default.')
    path.write_text("def broken(:")
    assert "cannot be imported: SyntaxError" in recipe_mistake(f"{path}:Mine")


@pytest.mark.parametrize("name", ["replay", "icarl", "bic", "wa", "lucir", "dgr", "balanced_softmax"])
def test_methods_that_need_exemplars_refuse_a_memory_of_none(name: str) -> None:
    run = validated({"strategy": name, "memory": {"budget": 0}})
    with pytest.raises(UserError, match=f'"{name}" needs exemplars: memory.budget is 0, it must be 1 or more'):
        check(run)
    assert check(validated({"strategy": "finetune", "memory": {"budget": 0}})).name == "finetune"


def test_unknown_datasets_and_backbones() -> None:
    with pytest.raises(UserError, match=r'dataset.name "digit" is unknown. Did you mean "digits"\?'):
        check(validated({"dataset": {"name": "digit"}}))
    with pytest.raises(UserError, match=r'training.backbone "resnet23" is unknown. Did you mean "resnet32"\?'):
        check(validated({"training": {"backbone": "resnet23"}}))


def test_reading_a_config_imports_no_torch() -> None:
    code = "import sys; from benchmark import config; config.load('quick').runs(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_strategy_and_dataset_of_different_kinds_are_refused() -> None:
    """Before any image is read: digits carry one label each, glyph scenes several."""
    for dataset, strategy in (("digits", "rebll"), ("glyph_scenes", "replay")):
        wanted = f'"{strategy}" learns from images with (one label|several labels) each, dataset "{dataset}" has'
        with pytest.raises(UserError, match=wanted):
            check(validated({"dataset": {"name": dataset}, "strategy": {"name": strategy}}))
    check(validated({"dataset": {"name": "glyph_scenes"}, "strategy": {"name": "rebll"}}))


def test_a_mismatch_ends_with_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmark.cli import main

    assert main(["run", "digits", "strategy=rebll", "--out", str(tmp_path)]) == 2
    assert "several labels" in capsys.readouterr().err and not list(tmp_path.iterdir())
