"""Gradient Reweighting (CVPR 2024): GR, DGR and DAKD, and the ablations of the paper."""
