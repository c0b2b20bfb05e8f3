#!/usr/bin/env bash
# All GPUs (or TPU chips) of this machine in one process, started again on exit codes 69 and 75:
#   launch/gpu_node.sh [--dry_run] --config=... --workdir=...
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
need --config "$*" 'the flags of fi_jax.main'

code=75
while [[ $code == 75 || $code == 69 ]]; do
  code=0
  run "${PYTHON:-.venv/bin/python}" -m fi_jax.main "$@" || code=$?
  echo "ended with $code"
done
exit "$code"
