#!/usr/bin/env bash
# One run on a TPU slice of a GKE cluster, as a JobSet that restarts on exit codes 69 and 75:
#   launch/gke.sh [--dry_run] NAME IMAGE --config=... --workdir=/runs/NAME        (kubectl)
#   XPK_CLUSTER=C launch/gke.sh [--dry_run] NAME IMAGE --config=... --workdir=... (xpk)
# The slice is that of launch/jobset.yaml; TPU_TYPE, for xpk, is as v5litepod-16.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
name=${1:-} image=${2:-}
need NAME "$name" 'of the job'
need IMAGE "$image" 'built by launch/Containerfile'
shift 2
need --config "$*" 'the flags of fi_jax.main'

if [[ -n ${XPK_CLUSTER:-} ]]; then
  run xpk workload create --cluster="$XPK_CLUSTER" --workload="$name" --docker-image="$image" \
    --tpu-type="${TPU_TYPE:-v5litepod-16}" --num-slices=1 --max-restarts=20 \
    --command="python -m fi_jax.main --multihost $(printf '%q ' "$@")"
  exit
fi
manifest=$(NAME=$name IMAGE=$image FLAGS=$(printf '"%s", ' "$@") python3 -c '
import os, string
print(string.Template(open("launch/jobset.yaml").read()).substitute(
    NAME=os.environ["NAME"], IMAGE=os.environ["IMAGE"], FLAGS=os.environ["FLAGS"].rstrip(", ")))')
if [[ -n $dry_run ]]; then
  echo "$manifest"
else
  run kubectl apply -f - <<<"$manifest"
fi
