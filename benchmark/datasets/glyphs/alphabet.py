"""The 300 characters of the dataset "glyphs", no two of which look alike, and the rule that chose them."""

from __future__ import annotations

import unicodedata

import numpy as np

from benchmark.datasets.glyphs.fonts import TEST_FONTS, TRAIN_FONTS, font_path, glyph_masks

# What choose_alphabet(300) returned with matplotlib 3.11 and Pillow 13. Frozen here, so that another version's
# rounding cannot change which characters the classes are.
ALPHABET = (
    "012347ABCDFHJKLMNQRSTUVWXYZabdefgjklmnprtyΈΉΊΌΎΐΘΞΣΦΨΩΫάέήΰα"
    "βεζηλμνπςυφχωϊϋώϕϖϝϞϠϡϰ϶ЁЂЉЊЋЎЏДЖЙЛЧШЩЪЫЮЯимтцщьёђѓћѣҐ$+<=>|"
    "~¢£¤©¬°±¼×€№™∂␣┌┐└┘├┤┬┴═║╓╖╘╚╝╟╢╤╥╦╧╨╩╪ªÀÆÇÑÒØÞßàæíñýĄąĆďĘęĝ"
    "ĥĲĳĶķĹĻľŅņŉŊŒŔŖŗŚŝŞţŤůŲųŴŵŹźƈƕƠƯưƺƾǁǂǼǽǿɐɕɖɚɠɣɤɮɰɱɲɳɷɹɻɾɿʁʄʇ"
    "ʉʍʎʐʑʔʕʗʛʞʣʤʦʧʨﬁ5689PoquΆΏΪγδικστϐϑϒϘϙϚϛϟϱϵЃЌУЬвгджзйлфшъыюљ"
)

FONTS = TRAIN_FONTS + TEST_FONTS
_ANGLES = (-12, 0, 12)  # degrees by which images of the dataset are commonly turned
_PASSES = (0.65, 0.75)  # mutual likeness allowed: first the most distinct characters, then fill up


def choose_alphabet(size: int) -> str:
    """Greedy choice of `size` characters, in a fixed order of preference, each unlike all chosen before it.

    Likeness is the correlation of two characters' masks at equal size, averaged over all fonts and maximised over small
    rotations; so O, o and 0 or s and S count as one. ValueError if the fonts do not have enough distinct characters.
    """
    candidates = candidate_characters()
    alike = likeness(candidates)
    chosen: list[int] = []
    for allowed in _PASSES:
        for index in range(len(candidates)):
            if all(alike[index, other] < allowed for other in chosen):
                chosen.append(index)
    if len(chosen) < size:
        raise ValueError(f"only {len(chosen)} distinct characters in these fonts, {size} wanted")
    return "".join(candidates[index] for index in chosen[:size])


def candidate_characters() -> str:
    """Letters, digits and symbols that every font has, in order of preference; no modifiers, which are mere accents."""
    from matplotlib.ft2font import FT2Font

    shared = set.intersection(*(set(FT2Font(str(font_path(font))).get_charmap()) for font in FONTS))
    wanted = [chr(code) for code in shared if unicodedata.category(chr(code))[0] in "LNS"]
    return "".join(sorted((c for c in wanted if unicodedata.category(c) not in ("Lm", "Sk")), key=_preference))


def likeness(characters: str, side: int = 32) -> np.ndarray:
    """Correlation of every two characters' shapes, float (N, N); see `choose_alphabet`."""
    masks = glyph_masks(characters, FONTS, side, side)
    upright = _standardised(masks)
    turned = (_standardised(_rotated(masks, angle)) for angle in _ANGLES)
    best = np.max([np.einsum("fid,fjd->ij", upright, other) / len(FONTS) for other in turned], axis=0)
    return np.maximum(best, best.T)


def _preference(character: str) -> tuple[int, int]:
    """Familiar scripts first: ASCII, Greek, Cyrillic, then symbols, numbers and other letters."""
    name = unicodedata.name(character, "")
    tests = (
        character.isascii() and character.isalnum(),
        name.startswith("GREEK"),
        name.startswith("CYRILLIC"),
        character.isascii(),
        unicodedata.category(character)[0] in "SN",
        True,
    )
    return tests.index(True), ord(character)


def _standardised(masks: np.ndarray) -> np.ndarray:
    """Each mask as a vector of mean 0 and length 1: (F, N, H*W)."""
    vectors = masks.reshape(*masks.shape[:2], -1).astype(np.float32)
    vectors -= vectors.mean(axis=-1, keepdims=True)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def _rotated(masks: np.ndarray, angle: float) -> np.ndarray:
    from PIL import Image

    if angle == 0:
        return masks
    flat = masks.reshape(-1, *masks.shape[2:])
    turned = [np.asarray(Image.fromarray(mask).rotate(angle, Image.Resampling.BILINEAR)) for mask in flat]
    return np.stack(turned).reshape(masks.shape)
