#!/usr/bin/env bash
# One run on all hosts of a TPU slice:  launch/tpu_pod.sh NAME ZONE --config=... --workdir=...
# The project must lie in ~/fi_jax on each host, with its environment made by `make env` and
# `.venv/bin/pip install '.[tpu]'`. The run folder must be one that all hosts see.
set -euo pipefail
name=${1:?name of the TPU}; zone=${2:?zone}; shift 2
command="cd ~/fi_jax && .venv/bin/python -m fi_jax.main --multihost $(printf '%q ' "$@")"
echo "on every host of $name ($zone): $command"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command"
