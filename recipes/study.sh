#!/usr/bin/env bash
# The study of docs/study.md, from text to results/study/*.json: two data sets, a heavy and a light model for each, one
# judge for both; and a third pair, the one that comes with Understudy (SETS=bundled), with its own judge.
#
#   recipes/study.sh CORPUS [RUNS] [STAGE ...]
#
# CORPUS holds longform-train-*.parquet, longform-validation.parquet, sentences-train.parquet and
# sentences-validation.parquet (column `text`). RUNS (default: runs/study) receives blocks, models and results. Stages:
# prepare, train, then for each set what STUDY lists; all of them unless named. Stage lengths (shorter trainings of the
# bundled pair) runs where SETS has bundled. Interrupted, run it again: every step resumes, and finished results are left alone.
#
# Settings by environment: SETS (longform sentences, bundled), SAMPLES for each schedule, SEARCH_SAMPLES, STEPS of the
# schedules, BATCH, DEVICE, PREFIX, LENGTHS (steps of the shorter trainings), EXTRA options of training.
set -euo pipefail
CORPUS=$1
RUNS=${2:-runs/study}
shift $(($# < 2 ? $# : 2))
STUDY="analyze plan rules contrast prefix steps temperature search lengths"
STAGES=${*:-prepare train $STUDY}
SETS=${SETS:-longform sentences}
SAMPLES=${SAMPLES:-4096}
SEARCH_SAMPLES=${SEARCH_SAMPLES:-2048}
STEPS=${STEPS:-1000}
BATCH=${BATCH:-256}
DEVICE=${DEVICE:-auto}
EXTRA=${EXTRA:---compile}
LENGTHS=${LENGTHS:-1000 3500}
BLOCKS=${BLOCKS:-1024}
TIMES=${TIMES:-32}
PREFIX=${PREFIX:-32}
VOCABULARY=${VOCABULARY:-8192}
UNDERSTUDY=${UNDERSTUDY:-understudy}

has() { [[ " $STAGES " == *" $1 "* ]]; }

# The shape and length of each data set's models: blocks of so many tokens, width, heads, steps of training, batch,
# learning rate, dropout. The bundled pair is that of recipes/demo.sh, 14,000 steps long, and is not trained here.
declare -A LENGTH=([longform]=256 [sentences]=128 [bundled]=256) WIDTH=([longform]=384 [sentences]=256 [bundled]=256)
declare -A HEADS=([longform]=6 [sentences]=4 [bundled]=4) DROPOUT=([longform]=0 [sentences]=0.1 [bundled]=0)
declare -A TRAIN=([longform]=${LONGFORM_STEPS:-16000} [sentences]=${SENTENCES_STEPS:-18000})
declare -A TRAIN_BATCH=([longform]=256 [sentences]=512 [bundled]=256)
declare -A RATE=([longform]=1.5e-3 [sentences]=2e-3 [bundled]=2e-3)
MODELS=$(dirname "$0")/../src/understudy/assets/demo
# What continuations begin with: blocks of one document each, or the first words of sentences; the held-out text holds no
# more of them.
declare -A PREFIXES=([longform]=longform-blocks [sentences]=sentences-prefixes.txt [bundled]=bundled-blocks)
declare -A PREFIX_LENGTH=([longform]=$PREFIX [sentences]=6 [bundled]=$PREFIX)
declare -A PREFIX_SAMPLES=([longform]=2400 [sentences]=1600 [bundled]=2400)

prepare() {
  local p="$UNDERSTUDY prepare" c=$CORPUS
  $p "$c"/longform-train-00-of-10.parquet --train-tokenizer "$VOCABULARY" --tokenizer-characters 50000000 \
    --block-length 256 --frame bos --limit-documents 12000 --output "$RUNS/tokenizer-blocks"
  local tokenizer=$RUNS/tokenizer-blocks/tokenizer
  $p "$c"/sentences-train.parquet --validation "$c"/sentences-validation.parquet --tokenizer "$tokenizer" \
    --block-length 128 --frame bos --output "$RUNS/sentences-blocks"
  python3 - "$c"/sentences-validation.parquet > "$RUNS/sentences-prefixes.txt" <<< '
import sys
import pyarrow.parquet
for text in pyarrow.parquet.read_table(sys.argv[1]).column("text").to_pylist():
    if len(text.split()) >= 8:
        print(" ".join(text.split()))'
  $p "$c"/longform-train-*.parquet --validation "$c"/longform-validation.parquet --tokenizer "$tokenizer" \
    --block-length 256 --frame bos --shard-blocks 16384 --output "$RUNS/longform-blocks"
  $p "$c"/longform-train-*.parquet "$c"/sentences-train.parquet --validation "$c"/longform-validation.parquet \
    --validation "$c"/sentences-validation.parquet --tokenizer "$tokenizer" --block-length 256 --frame bos \
    --shard-blocks 16384 --output "$RUNS/judge-blocks"
  if [[ " $SETS " == *" bundled "* ]]; then
    $p "$c"/longform-train-*.parquet --validation "$c"/longform-validation.parquet --tokenizer "$MODELS/heavy" \
      --block-length 256 --frame bos --shard-blocks 16384 --output "$RUNS/bundled-blocks"
  fi
}

train() { # output, data, batch, further options
  local output=$1 data=$2 batch=$3
  shift 3
  # shellcheck disable=SC2086
  $UNDERSTUDY train --output "$RUNS/$output" --data "$RUNS/$data" --batch-size "$batch" --warmup 500 --decay linear \
    --ema 0.999 --beta2 0.98 --validate-every 4000 --checkpoint-minutes 3 --weight-dtype bf16 $EXTRA "$@"
}

train_pair() { # data set, steps, what follows the models' names
  local set=$1 steps=$2 suffix=${3:-} model name blocks
  for model in "heavy 12" "light 4"; do
    read -r name blocks <<< "$model"
    train "$set-$name$suffix" "$set-blocks" "${TRAIN_BATCH[$set]}" --blocks "$blocks" --hidden-size "${WIDTH[$set]}" \
      --heads "${HEADS[$set]}" --tie-embeddings --steps "$steps" --lr "${RATE[$set]}" --dropout "${DROPOUT[$set]}" \
      --validation-blocks "$BLOCKS"
  done
}

train_all() {
  local set
  for set in $SETS; do
    if [ "$set" != bundled ]; then train_pair "$set" "${TRAIN[$set]}"; fi
  done
  if [ "$SETS" = bundled ]; then return; fi
  train judge judge-blocks 256 --objective ar --hidden-size 384 --heads 6 --blocks 6 --intermediate-size 1024 \
    --steps "${JUDGE_STEPS:-8000}" --lr 1.5e-3 --validation-blocks "$BLOCKS"
}

lengths() { # what a pair that saw less text finds important
  local steps
  for steps in $LENGTHS; do
    train_pair bundled "$steps" "-$steps"
    once "$RUNS/results/bundled/importance-$steps.json" $UNDERSTUDY analyze --heavy "$RUNS/bundled-heavy-$steps" \
      --light "$RUNS/bundled-light-$steps" --device "$DEVICE" --length 256 --batch-size "$BATCH" \
      --data "$RUNS/bundled-blocks" --blocks "$BLOCKS" --times "$TIMES" --num-samples "$SEARCH_SAMPLES" \
      --steps "$STEPS" --bins 50
  done
}

once() { # output file, command: not again where the file is there
  local file=$1
  shift
  [ -e "$file" ] || "$@" --output "$file"
}

# So many thousandths of the steps.
part() { echo $((STEPS * $1 / 1000)); }

rules() { # sandwich, first, last and middle with so many thousandths of light steps
  local f=$1 light half rest
  light=$(part "$f") half=$(($(part "$f") / 2)) rest=$((STEPS - $(part "$f")))
  echo "L$half,H$rest,L$((light - half)) L$light,H$rest H$rest,L$light H$((rest / 2)),L$light,H$((rest - rest / 2))"
}

# Options for schedules, each once: a plan may be one of the rules.
schedules() { printf '%s\n' "$@" | awk '!seen[$0]++ { printf "--schedule %s ", $0 }'; }

study() { # data set
  local set=$1 out=$RUNS/results/$1
  mkdir -p "$out"
  local heavy=$RUNS/$set-heavy light=$RUNS/$set-light scorer=$RUNS/judge
  if [ "$set" = bundled ]; then heavy=$MODELS/heavy light=$MODELS/light scorer=$MODELS/judge; fi
  local pair=(--heavy "$heavy" --light "$light" --device "$DEVICE")
  local judge=(--judge "$scorer") size=(--length "${LENGTH[$set]}" --batch-size "$BATCH")
  local evaluate=($UNDERSTUDY evaluate "${pair[@]}" "${judge[@]}" "${size[@]}" --judge-batch-size "$BATCH")
  if has analyze; then
    once "$out/importance.json" $UNDERSTUDY analyze "${pair[@]}" "${size[@]}" --data "$RUNS/$set-blocks" \
      --blocks "$BLOCKS" --times "$TIMES" --num-samples "$SAMPLES" --steps "$STEPS" --prefix-length "$PREFIX" --bins 50
  fi
  if has plan; then
    once "$out/plan.json" $UNDERSTUDY plan --importance "$out/importance.json" --light-steps "$(part 250)" \
      --steps "$STEPS" --max-switches 2
    once "$out/plan-half.json" $UNDERSTUDY plan --importance "$out/importance.json" --light-steps "$(part 500)" \
      --steps "$STEPS" --max-switches 2
  fi
  local planned halved
  planned=$(python3 -c "import json; print(json.load(open('$out/plan.json'))['schedule'])" 2> /dev/null || true)
  halved=$(python3 -c "import json; print(json.load(open('$out/plan-half.json'))['schedule'])" 2> /dev/null || true)
  # shellcheck disable=SC2046,SC2086
  if has rules; then
    once "$out/rules.json" "${evaluate[@]}" -n "$SAMPLES" --data "$RUNS/$set-blocks" --self-bleu \
      $(schedules "H$STEPS" $(rules 250) $planned $(rules 500) $halved "L$STEPS")
  fi
  # shellcheck disable=SC2046,SC2086
  if has contrast; then # the rules against each other, pair by pair: differences to the first
    local a b c d
    read -r a b c d <<< "$(rules 250)"
    once "$out/contrast.json" "${evaluate[@]}" -n $((2 * SAMPLES)) $(schedules "$b" "$a" "$c" "$d")
  fi
  # shellcheck disable=SC2046,SC2086
  if has prefix; then
    once "$out/prefix.json" "${evaluate[@]}" -n "${PREFIX_SAMPLES[$set]}" --prefixes "$RUNS/${PREFIXES[$set]}" \
      --prefix-length "${PREFIX_LENGTH[$set]}" \
      $(schedules "H$STEPS" $(rules 250) "L$STEPS")
  fi
  if has steps; then
    local n
    for n in 125 250 500; do # of a thousand; all thousand are among the rules
      # shellcheck disable=SC2046,SC2086
      once "$out/steps-$n.json" "${evaluate[@]}" -n "$SAMPLES" --steps "$(part "$n")" \
        $(schedules H100% "L12.5%,H75%,L12.5%" "L25%,H75%" "L25%,H50%,L25%" L100%)
    done
  fi
  # shellcheck disable=SC2046,SC2086
  if has temperature; then
    once "$out/temperature.json" "${evaluate[@]}" -n "$SEARCH_SAMPLES" --temperature 1 --temperature 0.9 \
      --temperature 0.8 --temperature 0.7 $(schedules "H$STEPS" $(rules 250 | cut -d' ' -f1) "L$STEPS")
  fi
  if has search; then
    once "$out/search.json" $UNDERSTUDY search "${pair[@]}" "${judge[@]}" "${size[@]}" --steps "$STEPS" \
      --judge-batch-size "$BATCH" --num-samples "$SEARCH_SAMPLES" --chunk "$SEARCH_SAMPLES" \
      --importance "$out/importance.json" --plan "$out/plan.json"
  fi
}

if has prepare; then prepare; fi
if has train; then train_all; fi
for set in $SETS; do
  study "$set"
  if [ "$set" = bundled ] && has lengths; then lengths; fi
done
