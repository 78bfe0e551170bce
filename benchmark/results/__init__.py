"""Finished runs as numbers: read, labelled, averaged, paired, tested."""
