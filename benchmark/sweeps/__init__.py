"""Many runs: the plan, the checks before it starts, the workers, the live view, the status."""
