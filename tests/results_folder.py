"""A synthetic results folder, written by hand-made counts through the store's own helpers. Not a test file."""

from pathlib import Path

import numpy as np

from benchmark import metrics, store

METHODS = {"finetune": ["head"], "icarl": ["head", "nme"], "dgr": ["head"]}
PROTOCOLS = (("lfs", 5), ("lfh", 2))


def config(strategy: str, protocol: str = "lfs", tasks: int = 5, seed: int = 0, **changes) -> dict:
    """A resolved run config; `changes` are dotted keys with "__" for the dot."""
    content = {
        "dataset": {"name": "cifar100", "root": None, "classes": 20},
        "stream": {
            "protocol": protocol, "tasks": tasks, "profile": "exponential", "rho": 100.0, "ranks": "by_label",
            "order": "shuffled", "order_seed": seed, "subset_seed": 0, "rank_seed": 0, "holdout": 0.0,
        },
        "strategy": {"name": strategy},
        "memory": {"budget": 20, "mode": "per_class", "selection": "herding"},
        "training": {
            "backbone": "resnet32", "epochs": 160, "augmentation": "crop", "precision": "auto", "compile": "auto",
            "lr": 0.1, "seed": seed,
        },
        "metrics": {"groups": [20, 100]},
    }  # fmt: skip
    for key, value in changes.items():
        section, _, name = key.partition("__")
        content[section][name] = value
    return content


def name_of(content: dict) -> str:
    stream, training = content["stream"], content["training"]
    readable = f"{stream['protocol']}{stream['tasks']}-{content['strategy']['name']}-s{training['seed']}"
    return f"cifar100-{readable}-{store.config_hash(content)[:10]}"


def write_run(root, content, classifiers=("head",), accuracy=None, finished=True, precision="bf16") -> str:
    """One run folder; `accuracy` fixes every class's recall (in percent), else it is drawn from the run's name."""
    name, stream = name_of(content), content["stream"]
    tasks = stream["tasks"]
    sizes = [20 // tasks] * tasks if stream["protocol"] == "lfs" else [10, *([10 // tasks] * tasks)]
    info = {"sizes": sizes, "profile_counts": [int(500 * 100 ** (-i / 19) + 1e-9) for i in range(20)]}
    folder = store.RunFolder(Path(root) / "runs" / name)
    store.write_json(folder.config, content)
    if not finished:
        return name
    rng = np.random.default_rng(list(name.encode()))
    found = {}
    for classifier in classifiers:
        records = []
        for t in range(len(sizes)):
            num_seen = sum(sizes[: t + 1])
            drawn = rng.binomial(100, 0.9 * 0.8**t, num_seen) if accuracy is None else np.full(num_seen, accuracy)
            records.append({"correct": drawn, "total": np.full(num_seen, 100)})
        found[classifier] = metrics.all_metrics(records, info)
    store.write_json(folder.stream, info)
    store.write_json(folder.environment, {"resolved": {"precision": precision, "compile": "off"}})
    store.write_json(
        folder.result,
        {"format": 1, "run": name, "classifiers": found, "memory_held": [20] * 15 + [5] * 5, "complete": True},
    )
    return name


def build(root, methods=METHODS, protocols=PROTOCOLS, seeds=3) -> list[str]:
    """methods x protocols x seeds finished runs and a sweep.json; returns the run names."""
    runs = [
        (config(method, protocol, tasks, seed), classifiers)
        for method, classifiers in methods.items()
        for protocol, tasks in protocols
        for seed in range(seeds)
    ]
    store.write_json(Path(root) / "sweep.json", {"runs": {name_of(content): content for content, _ in runs}})
    return [write_run(root, content, classifiers) for content, classifiers in runs]
