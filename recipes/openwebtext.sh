#!/usr/bin/env bash
# The paper's first setting: OpenWebText, GPT-2 tokenizer, length 1024, 12 and 4 blocks of width 768.
#
#   recipes/openwebtext.sh [RUNS]
#
# The published MDLM recipe (arXiv 2406.07524): 1,000,000 steps of 512 sequences, AdamW at 3e-4, 2,500 steps of warm-up,
# EMA 0.9999, dropout 0.1: all of them defaults of `understudy train`. Needs the hub and several large GPUs for days.
# Interrupted, run it again: every step resumes.
# Not run by this project; `recipes/demo.sh` is the same path at a smaller size.
set -euo pipefail
RUNS=${1:-runs/openwebtext}
GPUS=${GPUS:-8}
STEPS=${STEPS:-1000000}
MICRO_BATCH=${MICRO_BATCH:-32} # sequences a GPU takes at a time; 512 / GPUS must be a multiple

# Published: the last 100,000 of 8,013,769 documents are held out. Here every 80th is.
understudy prepare Skylion007/openwebtext --tokenizer gpt2 --block-length 1024 --frame both \
  --validation-fraction 0.0125 --output "$RUNS/blocks"

for model in "heavy 12" "light 4"; do
  read -r name blocks <<< "$model"
  accelerate launch --num_processes "$GPUS" -m understudy train --data "$RUNS/blocks" --output "$RUNS/$name" \
    --hidden-size 768 --heads 12 --blocks "$blocks" --steps "$STEPS" --batch-size 512 \
    --micro-batch "$MICRO_BATCH" --validate-every 10000 --validation-blocks 1024 --checkpoint-minutes 15 --compile
done
