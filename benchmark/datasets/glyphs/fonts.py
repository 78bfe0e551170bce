"""The fonts that matplotlib ships, and characters drawn from them as masks of one size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

# Each family's and each style's traits are seen in training; the test measures their unseen combinations.
TRAIN_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
)
TEST_FONTS = ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif-Italic", "STIXGeneralBolIta")

_POINTS = 96  # drawn large, then reduced: the fonts' hinting at small sizes would change shapes


def font_path(font: str) -> Path:
    """The file of one of the fonts above."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")


def glyph_masks(characters: str, fonts: tuple[str, ...], height: int, width: int) -> np.ndarray:
    """Draw each character in each font, as large as fits with a pixel's margin, in the centre.

    Size and position in the line are lost: c and C look alike.

    Returns
    -------
    uint8 (fonts, characters, height, width), 255 = ink
    """
    from PIL import ImageFont

    points = max(_POINTS, height)
    masks = np.zeros((len(fonts), len(characters), height, width), dtype=np.uint8)
    for row, name in enumerate(fonts):
        font = ImageFont.truetype(str(font_path(name)), points, layout_engine=ImageFont.Layout.BASIC)
        for column, character in enumerate(characters):
            masks[row, column] = _fit(_draw(font, character), height, width)
    return masks


def _draw(font: FreeTypeFont, character: str) -> Image:
    """The character, cropped to its ink."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    image = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
    ImageDraw.Draw(image).text((-left, -top), character, font=font, fill=255)
    ink = image.getbbox()
    if ink is None:
        raise ValueError(f"the font {font.getname()} draws nothing for {character!r}")
    return image.crop(ink)


def _fit(ink: Image, height: int, width: int) -> np.ndarray:
    from PIL import Image

    scale = min((height - 2) / ink.height, (width - 2) / ink.width)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    ink = ink.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    canvas = Image.new("L", (width, height))
    canvas.paste(ink, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas)
