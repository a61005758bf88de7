#!/usr/bin/env bash
# Proves a GPU before a long run, in at most 8 minutes on an H100:  scripts/check_gpu.sh [data.root=DIR] [out=DIR] ...
# The doctor, the tests that need a GPU, values against the CPU, runs that learn, a kill and an exact resumption, NCCL, and
# rates; then a table and OUT/check.json. Status 0 where all held. Keys: scripts/check_gpu.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
python=${VITAOS_PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} WANDB_MODE=${WANDB_MODE:-offline} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" -m scripts.gpu_check.command "$@"
