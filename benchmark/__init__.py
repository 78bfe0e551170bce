"""What is measured: datasets, streams, runs, sweeps, metrics, tables and figures."""
