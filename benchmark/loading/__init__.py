"""Batches from memory: shuffled, augmented on the device, read ahead where the data are on disk."""
