#!/usr/bin/env bash
# All benchmarks that a GPU answers, in under eight minutes: benchmarks/on_gpu.sh OUT [FACES.zip]
#
# OUT gets results.jsonl, a line a benchmark, and log.txt. With PyTorch built for CUDA beside JAX
# both stages are compared; without it JAX stands alone. Each part has its own limit, and a part
# that fails or takes too long is named and passed over.
set -u
out=${1:?give a folder for the results}; faces=${2:-}
python=${PYTHON:-python}
mkdir -p "$out"; results=$out/results.jsonl
exec > >(tee "$out/log.txt") 2>&1
source=()
[ -n "$faces" ] && source=(--config.data.source=zip "--config.data.path=$faces")
compare=(--no-torch)
$python -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null && compare=(--torch-compile)

part() {  # part SECONDS MODULE ARGUMENTS...
  local limit=$1 module=$2; shift 2
  echo "== $module $*"
  timeout "$limit" "$python" -m "benchmarks.$module" --json="$results" "$@" \
    || echo "-- $module $*: failed or not done in $limit s"
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
part 60 data_pipeline ${faces:+--path "$faces"} --processes 0 1 4 8 --threads 2 --seconds 1
part 60 augmentation --stage stage1 --batch 64 256 --rounds 5
part 90 step_vs_torch --stage stage1 --batch 64 --rounds 4 --steps 20 --no-parity "${compare[@]}"
part 100 step_vs_torch --stage stage2 --batch 64 --rounds 3 --steps 20 --no-parity "${compare[@]}"
part 55 step_vs_torch --stage stage1 --batch 256 --dtype bfloat16 --rounds 3 --steps 20 --no-torch
part 110 goodput -- --config=configs/stage1.py "${source[@]}" --workdir="$out/run" \
  --config.batch_size=64 --config.steps.stage1=2500 --config.eval.at_end=False
echo "results: $results"
