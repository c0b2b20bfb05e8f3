#!/usr/bin/env bash
# Two processes on this machine, as two hosts would be; the way to try a multi-host run on a CPU:
#   launch/local_two_process.sh [--dry_run] --config=... --workdir=...
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
need --config "$*" 'the flags of fi_jax.main'

processes=${PROCESSES:-2}
port=${PORT:-$((20000 + RANDOM % 20000))}
pids=()
trap '[[ ${#pids[@]} == 0 ]] || kill "${pids[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < processes; i++)); do
  run "${PYTHON:-.venv/bin/python}" -m fi_jax.main "$@" --coordinator="localhost:$port" \
    --num_processes="$processes" --process_id="$i" --config.mesh.cpu_devices=1 &
  pids+=($!)
done
code=0
for pid in "${pids[@]}"; do
  wait "$pid" || code=$?
done
exit "$code"
