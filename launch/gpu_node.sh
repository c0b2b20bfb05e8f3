#!/usr/bin/env bash
# All GPUs of this machine in one process:  launch/gpu_node.sh --config=... --workdir=...
set -euo pipefail
cd "$(dirname "$0")/.."
echo "on all devices here: .venv/bin/python -m fi_jax.main $*"
exec .venv/bin/python -m fi_jax.main "$@"
