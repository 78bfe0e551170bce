"""A source, a profile, an order and a split -> a long-tailed class-incremental Avalanche benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.errors import UserError, did_you_mean
from benchmark.streams.info import StreamInfo, choice_hash
from benchmark.streams.layout import Plan
from benchmark.streams.multilabel import multilabel_benchmark
from benchmark.streams.order import arrival_order, check_permutation, resolve_labels
from benchmark.streams.ranks import counts_by_class
from benchmark.streams.scenario import LongTailedBenchmark, make_stream
from benchmark.streams.source import Source, as_source
from benchmark.streams.split import class_split
from benchmark.streams.subset import Rows, check_compat, choose_rows, hold_out, hold_out_lt_cil, rows_by_class
from benchmark.streams.thinning import is_avalanche_benchmark, thin_benchmark

GENERATORS = ("datasets", "nc")
EVALUATED = ("test", "holdout")


def long_tailed_benchmark(
    source: Any,
    *,
    protocol: str | Sequence[int] | Sequence[Sequence[int | str]] = "lfs",
    tasks: int = 10,
    profile: str | Sequence[int] = "exponential",
    rho: float = 100.0,
    max_count: int | None = None,
    ranks: str = "by_label",
    order: str | Sequence[int | str] = "order_a",
    subset: str = "random",
    holdout: float = 0.0,
    compat: str | None = None,
    classes: Sequence[int | str] | None = None,
    order_seed: int = 0,
    subset_seed: int = 0,
    rank_seed: int = 0,
    assignment: str = "overlapping",
    evaluate: str = "test",
    experiences: int | None = None,
    generator: str = "datasets",
) -> LongTailedBenchmark:
    """A class-incremental benchmark with a long-tailed training stream and the complete test stream.

    Parameters
    ----------
    source
        An ImageArrays of :mod:`benchmark.datasets`; a (train, test) pair of torch datasets with ``targets`` (their own
        transforms apply, in training and evaluation); or an Avalanche class-incremental benchmark, of which only the
        training stream is thinned: its class ids, experiences, transforms and other streams stay, so `protocol`,
        `tasks` and `order` play no part.
    protocol, tasks
        See :func:`class_split`; or a list of sizes; or a list of lists of labels or class names, which replaces `order`
        as well.
    profile, rho, max_count
        See :func:`class_counts`; ``natural`` keeps each class's own images (at most `max_count`); or a list of counts,
        head first. `max_count` None means the number of images of the largest class.
    ranks, rank_seed
        Which class gets which count: ``by_label``, ``by_order`` or ``random``; see :func:`ranked_classes`.
    order, order_seed
        ``order_a`` (LUCIR), ``order_b`` (iCaRL), ``ordered``, ``reversed``, ``shuffled``, or a list of labels or names.
    subset, subset_seed, compat
        Which images a class keeps: see :func:`choose_rows`. ``compat="lt-cil"`` draws and holds out as that code does
        (its hold-out is 0.1).
    holdout
        Share of each class's images that is moved to ``valid_stream``.
    assignment
        Of multi-label images (labels of two dimensions): ``overlapping`` or ``disjoint`` experiences, see
        :mod:`benchmark.streams.multilabel`. Such images keep their own label frequencies: the profile must be
        ``natural``, and `rho`, `max_count` and `ranks` play no part.
    classes
        Keep these classes (labels or names) only.
    evaluate, experiences
        For picking hyper-parameters: with ``holdout`` the test stream holds the images held out of training, and the
        source's test images are never looked at; `experiences` keeps the first so many, with the images they have
        in the whole stream.
    generator
        ``datasets``, or ``nc`` to have Avalanche's ``nc_benchmark`` split the data, with the same result.

    Returns
    -------
    LongTailedBenchmark
        Labels are remapped to order of arrival: after experience t the seen classes are 0 ... C_t - 1.

    Raises
    ------
    UserError (a ValueError)
        One sentence that names the setting at fault.
    """
    if generator not in GENERATORS:
        raise UserError(f'There is no generator "{generator}".{did_you_mean(str(generator), GENERATORS)}')
    if evaluate not in EVALUATED:
        raise UserError(f'evaluate cannot be "{evaluate}".{did_you_mean(str(evaluate), EVALUATED)}')
    check_compat(compat)
    for_selection = evaluate == "holdout" or experiences is not None
    if for_selection and (generator != "datasets" or is_avalanche_benchmark(source)):
        raise UserError("evaluate and experiences need generator=datasets, and no existing Avalanche benchmark.")
    if is_avalanche_benchmark(source):
        if classes is not None or compat is not None or generator != "datasets":
            raise UserError("classes, compat and generator cannot be set for an existing Avalanche benchmark.")
        return thin_benchmark(source, profile, rho, max_count, ranks, subset, holdout, subset_seed, rank_seed)

    data = as_source(source)
    kept = sorted(data.class_names) if classes is None else sorted(resolve_labels(classes, data.class_names, "classes"))
    if not kept:
        raise UserError("classes is empty: list at least one class, or leave it out to keep all.")
    arrival, sizes = _arrival(protocol, tasks, order, order_seed, kept, data)
    title = protocol if isinstance(protocol, str) else "custom"
    if data.train_labels.ndim == 2:
        if for_selection:
            raise UserError("evaluate=holdout and experiences, which trials need, are for images with one label each.")
        _check_natural(data, profile, max_count, compat, generator)
        return multilabel_benchmark(
            data,
            arrival,
            sizes,
            protocol=title,
            assignment=assignment,
            holdout=holdout,
            subset=subset,
            subset_seed=subset_seed,
        )
    if assignment != "overlapping":
        raise UserError(f"assignment is for multi-label images; those of {data.name} have one label each.")
    available = rows_by_class(data.train_labels, sorted(data.class_names))
    _check_images(data, kept, available, "training images")
    own = {label: len(available[label]) for label in arrival}
    names = [data.class_names[label] for label in arrival]
    counts = counts_by_class(own, names, profile, rho, max_count, ranks, rank_seed)
    chosen = choose_rows(available, counts, subset, subset_seed, compat)
    if compat == "lt-cil" and holdout:
        train, valid = hold_out_lt_cil(chosen, arrival, sizes, holdout, subset_seed)
    else:
        train, valid = hold_out(chosen, holdout)
    _check_images(data, kept, train, f"training images left by the hold-out of compat={compat}")
    if experiences is not None:
        if not 1 <= experiences <= len(sizes):
            raise UserError(f"experiences must be 1 to {len(sizes)}, the number of the stream, got {experiences}.")
        sizes = sizes[:experiences]
        arrival, names = arrival[: sum(sizes)], names[: sum(sizes)]
        train, valid = ({label: rows[label] for label in arrival} for rows in (train, valid))
    plan = Plan(data, arrival, sizes)
    if evaluate == "holdout":
        tests, valid = valid, {label: [] for label in arrival}
        empty = next((t for t, group in enumerate(plan.groups()) if not any(tests[label] for label in group)), None)
        if empty is not None:
            raise UserError(f"holdout is {holdout}, which leaves experience {empty} without an image to evaluate on.")
    else:
        tests = rows_by_class(data.test_labels, sorted(arrival))
        _check_images(data, sorted(arrival), tests, "test images")
    info = StreamInfo(
        dataset=data.name,
        protocol=title,
        tasks=len(sizes),
        sizes=tuple(sizes),
        class_order=tuple(arrival),
        class_names=tuple(names),
        profile_counts=tuple(counts[label] for label in arrival),
        train_counts=tuple(len(train[label]) for label in arrival),
        valid_counts=tuple(len(valid[label]) for label in arrival),
        test_counts=tuple(len(tests[label]) for label in arrival),
        sha256=choice_hash(plan.rows(train), plan.rows(valid), plan.rows(tests)),
    )
    if generator == "nc":
        splits = plan.datasets_by_nc_benchmark(train, tests)
    else:
        splits = {
            "train": plan.datasets(train, False, "train"),
            "test": plan.datasets(tests, evaluate == "test", "eval"),
        }
    if holdout and evaluate == "test":
        splits["valid"] = plan.datasets(valid, False, "eval")
    columns = [list(group) for group in info.columns()]
    streams = [make_stream(name, datasets, columns) for name, datasets in splits.items()]
    return LongTailedBenchmark(streams, info, range(len(arrival)), data.images)


def _arrival(
    protocol: str | Sequence[Any],
    tasks: int,
    order: str | Sequence[int | str],
    seed: int,
    kept: list[int],
    data: Source,
) -> tuple[list[int], list[int]]:
    """Labels in order of arrival and classes per experience, from a protocol's name, sizes, or lists of classes."""
    names = data.class_names
    if isinstance(protocol, str):
        return arrival_order(order, kept, names, seed), class_split(len(kept), protocol, tasks)
    groups = list(protocol)
    if groups and all(isinstance(group, list | tuple) for group in groups):
        labels = resolve_labels([entry for group in groups for entry in group], names, "protocol")
        arrival, sizes = check_permutation(labels, kept, names, "protocol"), [len(group) for group in groups]
    elif groups and all(isinstance(size, int) for size in groups):
        arrival, sizes = arrival_order(order, kept, names, seed), groups
        if sum(sizes) != len(kept):
            raise UserError(f"The sizes in protocol add up to {sum(sizes)} classes, but {len(kept)} are kept.")
    else:
        raise UserError("protocol must be lfs, lfh, single, Bi-Cj, a list of sizes, or a list of lists of classes.")
    if min(sizes) < 1:
        raise UserError(f"protocol leaves experience {sizes.index(min(sizes))} without classes.")
    return arrival, sizes


def _check_natural(data: Source, profile: Any, max_count: int | None, compat: str | None, generator: str) -> None:
    """UserError for a setting that multi-label images cannot follow."""
    if profile != "natural":
        raise UserError(
            f"profile must be natural for {data.name}: multi-label images keep their own label frequencies "
            "(glyph_scenes makes a long tail itself, with dataset.rho)."
        )
    if max_count is not None or compat is not None or generator != "datasets":
        raise UserError(f"max_count, compat and generator cannot be set for {data.name}: its images have many labels.")


def _check_images(data: Source, kept: Sequence[int], rows: Rows, what: str) -> None:
    """UserError naming the first kept class that has no rows."""
    for label in kept:
        if not rows[label]:
            raise UserError(f"Class {label} ({data.class_names[label]}) of {data.name} has no {what}.")
