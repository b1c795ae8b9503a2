#!/usr/bin/env bash
# The paper's second setting: LM1B, BERT tokenizer, length 128, 12 and 4 blocks of width 768.
#
#   recipes/lm1b.sh TRAIN VALIDATION [RUNS]
#
# TRAIN and VALIDATION: Parquet files with a column `text`, or names of a hub mirror in Parquet (the original data set
# is a script, which current versions of `datasets` refuse). One sentence a block, padded, as MDLM does by default;
# perplexities do not compare with those of packed LM1B. The spaces around LM1B's punctuation are undone first, as the
# published code does (src/understudy/data/detokenization.py says where the two differ); BERT's tokenizer splits most
# punctuation off by itself, so little changes for it. Not run by this project.
set -euo pipefail
TRAIN=$1
VALIDATION=$2
RUNS=${3:-runs/lm1b}
GPUS=${GPUS:-8}
STEPS=${STEPS:-1000000}

understudy prepare "$TRAIN" --validation "$VALIDATION" --tokenizer bert-base-uncased --layout padded \
  --detokenize lm1b --block-length 128 --output "$RUNS/blocks"

for model in "heavy 12" "light 4"; do
  read -r name blocks <<< "$model"
  accelerate launch --num_processes "$GPUS" -m understudy train --data "$RUNS/blocks" --output "$RUNS/$name" \
    --hidden-size 768 --heads 12 --blocks "$blocks" --steps "$STEPS" --batch-size 512 \
    --validate-every 10000 --validation-blocks 2048 --checkpoint-minutes 15 --compile
done
