"""Write the text that the bundled pair is analysed on: documents that the bundled judge makes up, from a fixed seed.

    python recipes/held_out.py src/understudy/assets/demo/held-out.txt

It stands in for held-out text that may be shipped: the models have never seen it, and it is like what they were trained
on. Numbers on it are not those on real text; give `understudy analyze --data` your own.
"""

import re
import sys
from pathlib import Path

import torch

from understudy.demo import bundled_judge

DOCUMENTS, TOKENS, SEED = 72, 255, 20261125


def main():
    """Sample left to right, and write documents set apart by empty lines."""
    judge = bundled_judge()
    torch.manual_seed(SEED)
    start = torch.full((DOCUMENTS, 1), judge.tokenizer.bos_token_id)
    ids = judge.model.generate(
        start,
        attention_mask=torch.ones_like(start),
        do_sample=True,
        top_k=0,
        max_new_tokens=TOKENS,
        eos_token_id=None,
        pad_token_id=judge.tokenizer.eos_token_id,
    )
    texts = []
    for row in ids.tolist():
        for part in judge.tokenizer.decode(row).split(judge.tokenizer.eos_token):
            text = re.sub(r"\n{2,}", "\n", part.replace(judge.tokenizer.bos_token, "")).strip()
            if len(text) > 40:
                texts.append(text)
    Path(sys.argv[1]).write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    print(f"{len(texts)} documents")


if __name__ == "__main__":
    main()
