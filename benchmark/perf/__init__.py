"""`make perf`: how fast the harness is, measured beside what it is compared with. Benchmarks, never tests."""
