"""One look for all figures and the report: a method has the same colour and mark wherever it is drawn.

The colours are those of seaborn's colour-blind safe palette, without the yellow that vanishes on white, and a black;
`ON_DARK` holds the same hues for a dark page. A mark's shape tells methods apart where colour cannot.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

ON_LIGHT = (
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#56b4e9", "#ca9161", "#949494", "#fbafe4", "#222222",
)  # fmt: skip
ON_DARK = (
    "#4ba3e3", "#eda52c", "#2cc295", "#f17a2b", "#db93ce", "#8ccbf2", "#d6a377", "#a3a3a3", "#fbc4ea", "#f0eee8",
)  # fmt: skip
# These methods look the same in every figure; their places among the colours.
FIXED = ("replay", "icarl", "bic", "dgr", "lucir", "balanced_softmax", "wa", "finetune", "lwf", "joint_bsce")


def places(methods: Iterable[str]) -> dict[str, int]:
    """Method's label -> its place, from which colour and mark follow; others take the free places by the alphabet.

    "icarl (nme)" belongs to icarl; of several labels of one method the last has its place.
    """
    labels = sorted(set(methods))
    fixed = {label.split(" ")[0]: label for label in labels if label.split(" ")[0] in FIXED}
    taken = {label: FIXED.index(strategy) for strategy, label in fixed.items()}
    free = (i for i in itertools.count() if i not in taken.values())
    return {label: taken[label] if label in taken else next(free) for label in labels}
