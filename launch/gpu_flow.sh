#!/usr/bin/env bash
# One accelerator, a quarter of an hour: the flow, distilled to two evaluations, scored, exported.
#   FACES='--config.data.source=zip --config.data.path=FACES.zip --config.data.landmarks=POINTS.npz' \
#     OUT=runs/gpu launch/gpu_flow.sh [--dry_run]
# SIZE=base RES=64 MINUTES=6 of the flow, FEW_MINUTES=2 of the few-step stage; both resume.
# Each export stays below 16 MB of bfloat16 parts where it must travel: FILE.part_*; join with cat.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
need FACES "${FACES:-}" 'the data flags, config.data.source and so on'
need OUT "${OUT:-}" 'a folder for the runs and the exported files'

python=${PYTHON:-.venv/bin/python}
read -ra faces <<< "$FACES"
config=configs/flow.py:size=${SIZE:-base},res=${RES:-64}
score=(--config.eval.holes=centre --config.eval.baselines=False --config.eval.batch_size=96)

train() { # train STAGE MINUTES FLAGS...
  run "$python" -m fi_jax.main --config="$config,stage=$1" "${faces[@]}" \
    --workdir="$OUT/$1" --config.minutes="$2" "${score[@]}" "${@:3}"
}
train flow "${MINUTES:-6}"
train distill "${FEW_MINUTES:-2}" --config.warm_start="$OUT/flow"
for stage in flow distill; do
  file=$OUT/$stage.safetensors
  run "$python" -m fi_jax.cli export --workdir="$OUT/$stage" --out="$file" --dtype=bfloat16
  run split --bytes=15M "$file" "$file.part_"
done
