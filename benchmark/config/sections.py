"""The sections of a config: keys, types, ranges and defaults (imports neither torch nor Avalanche)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes true for 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float, int | None):
            raise ValueError("Input should be a number")
        return value


class DatasetConfig(Section):
    """Which images. `classes`: how many to keep (or to generate), or a list of labels or class names to keep.

    `train_images`, `test_images`, `rho`: size and imbalance of a generated multi-label set.
    """

    name: str = "cifar100"
    root: str | None = None
    classes: int | list[int | str] | None = None
    test_fraction: float | None = Field(default=None, gt=0, lt=1)
    train_per_class: int | None = Field(default=None, ge=1)
    test_per_class: int | None = Field(default=None, ge=1)
    train_images: int | None = Field(default=None, ge=1)
    test_images: int | None = Field(default=None, ge=1)
    rho: float | None = Field(default=None, ge=1)
    resolution: int | None = Field(default=None, ge=8)
    seed: int = Field(default=0, ge=0)


class StreamConfig(Section):
    """Which classes arrive when, with how many images; see `benchmark.streams.long_tailed_benchmark`.

    `evaluate` and `experiences` are those of trials (`imcil tune`): on held-out images, on the first experiences.
    """

    protocol: str | list[int] | list[list[int | str]] = "lfs"
    tasks: int = Field(default=10, ge=1)
    profile: str | list[int] = "exponential"
    rho: float = Field(default=100.0, ge=1)
    max_count: int | None = Field(default=None, ge=1)
    ranks: Literal["by_label", "by_order", "random"] = "by_label"
    order: str | list[int | str] = "shuffled"
    subset: Literal["random", "first"] = "random"
    holdout: float = Field(default=0.0, ge=0, lt=1)
    compat: Literal["lt-cil"] | None = None
    order_seed: int = Field(default=0, ge=0)
    subset_seed: int = Field(default=0, ge=0)
    rank_seed: int = Field(default=0, ge=0)
    assignment: Literal["overlapping", "disjoint"] = "overlapping"
    evaluate: Literal["test", "holdout"] = "test"
    experiences: int | None = Field(default=None, ge=1)


class StrategyConfig(BaseModel):
    """The method and its options, which are the fields of its recipe."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "replay"

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class MemoryConfig(Section):
    """Exemplars: images per class, or in total."""

    budget: int = Field(default=20, ge=0)
    mode: Literal["per_class", "total"] = "per_class"
    selection: Literal["herding", "random"] = "herding"


class TrainingConfig(Section):
    """Backbone and optimiser, the same in every experience. Milestones are fractions of the epochs.

    `last_batch`: what becomes of images that fill no batch, see `strategies.training.recipe`. `checkpoint_minutes`:
    time between two checkpoints inside an experience. `keep`: which experiences' final weights stay in the run's
    folder, as weights/NN.pt. `loggers`: see `benchmark.runs.loggers`.
    """

    backbone: str = "resnet32"
    epochs: int = Field(default=160, ge=1)
    batch_size: int = Field(default=128, ge=1)
    last_batch: Literal["keep", "even"] = "keep"
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    milestones: list[float] = [0.5, 0.75]
    gamma: float = Field(default=0.1, gt=0)
    warmup_epochs: int = Field(default=0, ge=0)
    augmentation: Literal["crop", "resized_crop", "crop_jitter", "none"] = "crop"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    checkpoint_minutes: float = Field(default=10, ge=0)
    keep: Literal["none", "last", "each"] = "none"
    loggers: list[Literal["tensorboard", "wandb"]] = []
    seed: int = Field(default=0, ge=0)

    @field_validator("milestones")
    @classmethod
    def _of_the_epochs(cls, value: list[float]) -> list[float]:
        """The literature writes epochs: 80 and 120 would never be reached."""
        if not all(0 < milestone < 1 for milestone in value):
            raise ValueError("Input should be fractions of the epochs, above 0 and below 1 (80 of 160 epochs are 0.5)")
        return value

    @field_validator("warmup_epochs")
    @classmethod
    def _within_the_epochs(cls, value: int, info: ValidationInfo) -> int:
        """A longer warm-up would never reach the rate that the config names."""
        epochs = info.data.get("epochs", value + 1)  # absent where it is wrong itself
        if value >= epochs and value:
            raise ValueError(f"Input should be less than training.epochs ({epochs})")
        return value

    @field_validator("compile", mode="before")
    @classmethod
    def _yaml_switch(cls, value: Any) -> Any:
        """YAML reads a bare on or off as true or false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class MetricsConfig(Section):
    """`groups`: few-shot classes have fewer images than the first number, many-shot more than the second."""

    groups: tuple[int, int] = (20, 100)
    diagnostics: bool = False

    @field_validator("groups")
    @classmethod
    def _in_order(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] <= value[1]:
            raise ValueError("Input should be two counts, the smaller first")
        return value
