#!/usr/bin/env bash
# A light model made of the heavy one against one trained from scratch: same blocks, same width, same tokens.
#
#   recipes/make-light.sh BLOCKS [RUNS] [STAGE ...]
#
# BLOCKS: prepared text in the tokens of the heavy model (for the bundled one, what recipes/demo.sh leaves in
# runs/demo/blocks). RUNS (default: runs/make-light) receives models and results. Stages: scratch (train from random
# weights), pruned (blocks chosen, nothing healed), imitate (the same healed, for every share of distillation in
# SHARES), hand (blocks evenly spaced, healed), analyze (path KL of each against the heavy model), judge (texts of each
# scored by a judge, alone and in a sandwich), table; all of them unless named. Interrupted, run it again: every step
# resumes, and finished results are left alone.
#
# Settings by environment; the defaults are the bundled light model's recipe with a tenth of its tokens, from scratch
# too: what has seen ten times as many is in ORIGINAL. A light model's tokens are STEPS × BATCH × block length; the
# teacher's passes come on top, and `results/table.json` says so.
set -euo pipefail
BLOCKS=$1
RUNS=${2:-runs/make-light}
shift $(($# < 2 ? $# : 2))
STAGES=${*:-scratch pruned imitate hand analyze judge table}
HEAVY=${HEAVY:-src/understudy/assets/demo/heavy}
ORIGINAL=${ORIGINAL:-src/understudy/assets/demo/light}
JUDGE=${JUDGE:-src/understudy/assets/demo/judge}
KEEP=${KEEP:-4}                 # blocks of the light model
BY_HAND=${BY_HAND:-0,3,6,9}     # as many, evenly spaced (the best rule by position before healing)
STEPS=${STEPS:-1400}
BATCH=${BATCH:-256}
RATE=${RATE:-2e-3}              # from scratch
HEAL_RATE=${HEAL_RATE:-1e-3}
SHARES=${SHARES:-0 0.5 1}       # λ: 0 is data only, from the pruned weights
WIDTH=${WIDTH:-256}
HEADS=${HEADS:-4}
TEXT_BLOCKS=${TEXT_BLOCKS:-256}
TIMES=${TIMES:-16}
SAMPLES=${SAMPLES:-1024}
SAMPLE_STEPS=${SAMPLE_STEPS:-256}
LENGTH=${LENGTH:-256}
SAMPLE_BATCH=${SAMPLE_BATCH:-256}
DEVICE=${DEVICE:-auto}
EXTRA=${EXTRA:---compile}       # more options for every training run
UNDERSTUDY=${UNDERSTUDY:-understudy}
mkdir -p "$RUNS/results"

has() { [[ " $STAGES " == *" $1 "* ]]; }

once() { # output file, command: not again where the file is there
  local file=$1
  shift
  [ -e "$file" ] || "$@" --output "$file"
}

light() { # name, options: a light model of the heavy one
  local name=$1
  shift
  $UNDERSTUDY make-light "$HEAVY" --data "$BLOCKS" --output "$RUNS/$name" --device "$DEVICE" \
    --text-blocks "$TEXT_BLOCKS" --times "$TIMES" "$@"
}

heal() { # name, options
  # shellcheck disable=SC2086
  light "$@" --steps "$STEPS" --batch-size "$BATCH" --lr "$HEAL_RATE" --checkpoint-minutes 2 --weight-dtype bf16 $EXTRA
}

if has scratch; then
  # shellcheck disable=SC2086
  $UNDERSTUDY train --data "$BLOCKS" --output "$RUNS/scratch" --hidden-size "$WIDTH" --heads "$HEADS" --tie-embeddings \
    --blocks "$KEEP" --steps "$STEPS" --batch-size "$BATCH" --lr "$RATE" --warmup $((STEPS / 10)) --decay linear \
    --ema 0.999 --dropout 0 --beta2 0.98 --validate-every 500 --checkpoint-minutes 2 --weight-dtype bf16 $EXTRA
fi
if has pruned; then light pruned --blocks "$KEEP" --steps 0; fi
chosen() { python3 -c "import json; print(*json.load(open('$RUNS/pruned/make_light.json'))['kept'], sep=',')"; }
if has imitate; then
  for share in $SHARES; do heal "imitate-$share" --keep "$(chosen)" --lambda "$share"; done
fi
if has hand; then heal hand --keep "$BY_HAND" --lambda "${SHARES##* }"; fi

names() {
  local name
  for name in "$RUNS"/scratch "$RUNS"/pruned "$RUNS"/imitate-* "$RUNS"/hand; do
    if [ -e "$name/config.json" ]; then basename "$name"; fi
  done
}
folder() { if [ "$1" = original ]; then echo "$ORIGINAL"; else echo "$RUNS/$1"; fi; }

for name in original $(names); do
  pair=(--heavy "$HEAVY" --light "$(folder "$name")" --device "$DEVICE")
  if has analyze; then
    once "$RUNS/results/importance-$name.json" $UNDERSTUDY analyze "${pair[@]}" --data "$BLOCKS" --blocks "$TEXT_BLOCKS" \
      --times "$TIMES" --num-samples "$SAMPLES" --steps "$SAMPLE_STEPS" --length "$LENGTH" --batch-size "$SAMPLE_BATCH"
  fi
  if has judge; then
    once "$RUNS/results/judged-$name.json" $UNDERSTUDY evaluate "${pair[@]}" --judge "$JUDGE" -n "$SAMPLES" \
      --steps "$SAMPLE_STEPS" --length "$LENGTH" --batch-size "$SAMPLE_BATCH" --judge-batch-size "$SAMPLE_BATCH" \
      --schedule H100% --schedule L12.5%,H75%,L12.5% --schedule L100%
  fi
done

if has table; then
  python3 "$(dirname "$0")/make_light_table.py" "$RUNS"
fi
