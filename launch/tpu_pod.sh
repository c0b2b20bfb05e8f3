#!/usr/bin/env bash
# One run on all hosts of a TPU slice. First get a slice (queued, spot or not), then start:
#   launch/tpu_pod.sh [--dry_run] create NAME ZONE v5litepod-16 [--spot]
#   launch/tpu_pod.sh [--dry_run] setup  NAME ZONE REPOSITORY_URL
#   launch/tpu_pod.sh [--dry_run] train  NAME ZONE --config=... --workdir=...
#   launch/tpu_pod.sh [--dry_run] delete NAME ZONE
# The run folder must be one that all hosts see (a mounted bucket or a Filestore).
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
verb=${1:-} name=${2:-} zone=${3:-}
need verb "$verb" 'create, setup, train or delete'
need NAME "$name" 'of the TPU'
need ZONE "$zone" 'as us-west4-a'
shift 3

everywhere() {
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

case $verb in
  create)
    need TYPE "${1:-}" 'the accelerator, as v5litepod-16'
    run gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
      --accelerator-type="$1" --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" "${@:2}"
    ;;
  setup)
    need REPOSITORY_URL "${1:-}" 'where git finds the project'
    everywhere "git clone $(printf %q "$1") ~/fi_jax && cd ~/fi_jax && make env && .venv/bin/pip install '.[tpu]' --constraint constraints.txt"
    ;;
  train)
    need --config "$*" 'the flags of fi_jax.main'
    everywhere "cd ~/fi_jax && .venv/bin/python -m fi_jax.main --multihost $(printf '%q ' "$@")"
    ;;
  delete)
    run gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
    ;;
  *)
    echo "error: what is $verb? create, setup, train or delete" >&2
    exit 1
    ;;
esac
