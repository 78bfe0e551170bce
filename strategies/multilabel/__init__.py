"""Methods for images with several labels each, RebLL (AAAI 2025) among them."""
