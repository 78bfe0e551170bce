"""Hyper-parameters, chosen by trials on held-out images."""
