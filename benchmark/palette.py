"""One look for all figures and the report: a method has the same colour and mark wherever it is drawn.

The colours are those of seaborn's colour-blind safe palette, without the yellow that vanishes on white, and a black;
`ON_DARK` holds the same hues for a dark page. A mark's shape tells methods apart where colour cannot.
"""

from __future__ import annotations

from collections.abc import Iterable

ON_LIGHT = (
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#56b4e9", "#ca9161", "#949494", "#fbafe4", "#222222",
)  # fmt: skip
ON_DARK = (
    "#4ba3e3", "#eda52c", "#2cc295", "#f17a2b", "#db93ce", "#8ccbf2", "#d6a377", "#a3a3a3", "#fbc4ea", "#f0eee8",
)  # fmt: skip


def places(methods: Iterable[str]) -> dict[str, int]:
    """Method -> its place in the alphabet, from which colour and mark follow."""
    return {method: place for place, method in enumerate(sorted(set(methods)))}
