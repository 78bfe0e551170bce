"""Where runs are carried out, and how their progress is shown.

Every engine starts processes that call `sweeps.engines.worker.work(directory)`, and holds no state of its own: the
outcome of a sweep is what its run folders say.
"""
