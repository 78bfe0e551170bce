"""Glyphs: images of characters, drawn here from the fonts that matplotlib ships."""
