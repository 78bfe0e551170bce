"""Counts of correct images in, figures of merit out; and the catalogue of their names and titles."""
