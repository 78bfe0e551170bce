"""The generated dataset: its alphabet, its images, its determinism."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.datasets import load
from benchmark.datasets.glyphs.alphabet import ALPHABET, FONTS, candidate_characters, choose_alphabet, likeness
from benchmark.datasets.glyphs.fonts import TEST_FONTS, TRAIN_FONTS, glyph_masks
from benchmark.datasets.glyphs.images import _CONTRAST, _LUMA, _colours, class_name, class_texts
from benchmark.errors import UserError


def small(cache: Path, **options: int):
    return load("glyphs", cache_dir=cache, **{"classes": 4, "train_per_class": 6, "test_per_class": 3, **options})


def test_shapes_and_labels(tmp_path: Path):
    glyphs = small(tmp_path)
    assert glyphs.train_images.shape == (24, 32, 32, 3) and glyphs.test_images.shape == (12, 32, 32, 3)
    assert glyphs.train_images.dtype == np.uint8 and isinstance(glyphs.train_images, np.memmap)
    assert glyphs.train_labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    assert not glyphs.flip and glyphs.crop_size is None
    assert glyphs.class_names == ("U+0030 0", "U+0031 1", "U+0032 2", "U+0033 3")
    assert len(np.unique(glyphs.train_images.reshape(24, -1), axis=0)) == 24
    assert glyphs.mean == pytest.approx((glyphs.train_images / 255).mean((0, 1, 2)))


def test_seed_decides_every_pixel(tmp_path: Path):
    first, again, other = (small(tmp_path / name, seed=seed) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert np.array_equal(first.train_images, again.train_images)
    assert np.array_equal(first.test_images, again.test_images)
    assert not np.array_equal(first.train_images, other.train_images)


def test_the_first_classes_do_not_depend_on_how_many_follow(tmp_path: Path):
    few, many = small(tmp_path), small(tmp_path, classes=9)
    assert many.class_names[:4] == few.class_names
    assert np.array_equal(many.train_images[:24], few.train_images)
    assert np.array_equal(many.test_images[:12], few.test_images)


def test_the_global_generators_are_left_alone(tmp_path: Path):
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    small(tmp_path)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_resolution(tmp_path: Path):
    assert small(tmp_path, resolution=96).train_images.shape == (24, 96, 96, 3)
    with pytest.raises(UserError, match="between 8 and 512, not 4"):
        small(tmp_path, resolution=4)


def test_pairs_above_300_classes(tmp_path: Path):
    glyphs = small(tmp_path, classes=301, train_per_class=1, test_per_class=1)
    assert glyphs.num_classes == 301 == len(set(glyphs.class_names))
    assert glyphs.class_names[1] == "U+0030 U+0031 01"
    assert glyphs.train_images.shape == (301, 32, 32, 3)


@pytest.mark.parametrize("classes", [1, 10_001])
def test_number_of_classes_has_bounds(tmp_path: Path, classes: int):
    with pytest.raises(UserError, match=f"2 to 10000 classes, not {classes}"):
        small(tmp_path, classes=classes)


def test_class_texts_are_distinct_and_stable_as_they_grow():
    assert len(set(class_texts(300))) == 300
    everything = class_texts(10_000)
    assert len(set(everything)) == 10_000 and len(set("".join(everything))) == 100
    assert class_texts(301) == everything[:301] and class_texts(7) == class_texts(300)[:7]
    assert len({class_name(text) for text in everything}) == 10_000


def test_fonts_of_training_and_test_are_disjoint():
    assert not set(TRAIN_FONTS) & set(TEST_FONTS)
    assert len(set(FONTS)) == 16


def test_train_and_test_images_differ_in_font_only_by_design(tmp_path: Path):
    train, test = (glyph_masks("A", fonts, 32, 32)[:, 0] for fonts in (TRAIN_FONTS, TEST_FONTS))
    for mask in test:
        assert all(not np.array_equal(mask, other) for other in train)


def test_masks_fill_the_box_and_are_centred():
    for shape in ((32, 32), (32, 16)):
        for mask in glyph_masks("AWil—gĄ", FONTS, *shape).reshape(-1, *shape):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            margins = rows[0], columns[0], shape[0] - 1 - rows[-1], shape[1] - 1 - columns[-1]
            assert 1 <= min(margins) <= 2
            assert abs(margins[0] - margins[2]) <= 2 and abs(margins[1] - margins[3]) <= 2


def test_ink_and_ground_contrast_and_stay_in_range():
    ground, ink = _colours(20_000, torch.Generator().manual_seed(0))
    luma = torch.tensor(_LUMA)[None, :, None, None]
    difference = ((ground - ink) * luma).sum(1)  # dark ink on light ground
    assert difference.min() >= _CONTRAST - 1e-5
    for colour in (ground, ink):
        assert colour.min() >= -1e-6 and colour.max() <= 1 + 1e-6
    assert difference.std() > 0.1


def test_no_two_characters_of_the_alphabet_look_alike():
    assert len(ALPHABET) == len(set(ALPHABET)) == 300
    assert set(ALPHABET) <= set(candidate_characters())
    alike = likeness(ALPHABET)
    np.fill_diagonal(alike, 0)
    assert alike.max() < 0.8  # chosen below 0.75; other versions of the renderer may differ a little
    assert np.quantile(alike[:100, :100], 0.99) < 0.65


def test_case_pairs_and_look_alikes_are_merged():
    for group in ("0Oo", "cC", "sS5", "vV", "wW", "xX", "zZ", "lI|", "ABCDEFG"):
        kept = [character for character in group if character in ALPHABET]
        assert kept, group
        if group != "ABCDEFG":
            alike = likeness("".join(kept))
            assert (alike[~np.eye(len(kept), dtype=bool)] < 0.8).all(), kept


@pytest.mark.slow
def test_the_frozen_alphabet_is_what_the_rule_gives():
    chosen = choose_alphabet(300)
    assert len(set(chosen) & set(ALPHABET)) >= 285  # equal on the versions it was made with


def test_the_rule_skips_look_alikes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmark.datasets.glyphs.alphabet.candidate_characters", lambda: "Ooss0SA")
    assert choose_alphabet(4) == "Os0A"
    with pytest.raises(ValueError, match="only 4 distinct characters"):
        choose_alphabet(5)


def test_glyphs_can_be_learnt_but_are_not_trivial(tmp_path: Path):
    """A linear model on pixels does better than chance and far from perfect."""
    from sklearn.linear_model import RidgeClassifier

    glyphs = load("glyphs", classes=10, train_per_class=100, test_per_class=30, cache_dir=tmp_path)

    def features(images: np.ndarray) -> np.ndarray:
        grey = images.mean(-1).reshape(len(images), -1)
        grey = grey - grey.mean(1, keepdims=True)
        return np.abs(grey) / grey.std(1, keepdims=True)

    model = RidgeClassifier(1000.0).fit(features(glyphs.train_images), glyphs.train_labels)
    accuracy = model.score(features(glyphs.test_images), glyphs.test_labels)
    assert 0.2 < accuracy < 0.9
