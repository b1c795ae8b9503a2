#!/usr/bin/env bash
# The models that come with Understudy (src/understudy/assets/demo), from text to folders.
#
#   recipes/demo.sh CORPUS [RUNS]
#
# CORPUS holds longform-train-*.parquet and longform-validation.parquet (column `text`); any English documents will do.
# RUNS (default: runs/demo) receives the token blocks and three model folders. Interrupted, run it again: every step
# resumes.
set -euo pipefail
CORPUS=$1
RUNS=${2:-runs/demo}
STEPS=${STEPS:-14000}        # 65,536 tokens each; the same for heavy and light
JUDGE_STEPS=${JUDGE_STEPS:-10000}
EXTRA=${EXTRA:---compile}    # more options for every training run

understudy prepare "$CORPUS"/longform-train-*.parquet --validation "$CORPUS"/longform-validation.parquet \
  --train-tokenizer 4096 --tokenizer-characters 50000000 --block-length 256 --frame bos --output "$RUNS/blocks"

train() { # name, steps, further options
  local name=$1 steps=$2
  shift 2
  # shellcheck disable=SC2086
  understudy train --data "$RUNS/blocks" --output "$RUNS/$name" --hidden-size 256 --heads 4 --tie-embeddings \
    --steps "$steps" --batch-size 256 --lr 2e-3 --warmup 500 --decay linear --ema 0.999 --dropout 0 --beta2 0.98 \
    --validate-every 4000 --validation-blocks 1024 --checkpoint-minutes 2 --weight-dtype bf16 $EXTRA "$@"
}
# One card has room for all three, and neither of the small ones fills it.
train heavy "$STEPS" --blocks 12 > "$RUNS/heavy.out" 2>&1 &
train light "$STEPS" --blocks 4
train judge "$JUDGE_STEPS" --objective ar --blocks 4 --intermediate-size 768
wait $!
