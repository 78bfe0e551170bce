#!/usr/bin/env bash
# What `make test-engines` needs: SLURM and munge from Debian's packages, submitit and Ray from PyPI. No service of the
# packages is configured or started: the tests start a cluster of their own, as whoever runs them (slurm_cluster.py).
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PATH:/usr/sbin:/sbin"
if ! { command -v slurmctld && command -v slurmd && command -v sbatch && command -v munged; } >/dev/null; then
  command -v apt-get >/dev/null || { echo "install SLURM and munge: slurmctld, slurmd, sbatch, munged" >&2; exit 1; }
  as_root=$([ "$(id -u)" = 0 ] || echo sudo)
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
fi
.venv/bin/uv pip install --quiet --python .venv/bin/python -c requirements.lock submitit==1.5.4 ray==2.60.0
