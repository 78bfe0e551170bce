"""What every method must keep: the checks of `imcil check`, run on small networks and streams."""
