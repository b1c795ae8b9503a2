"""Options of `understudy evaluate`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Samples = Annotated[
    Path | None, typer.Option("--samples", metavar="FILE", help="Score this file of `understudy sample --output`.")
]
Schedules = Annotated[
    list[str] | None,
    typer.Option("--schedule", help="Sample and compare such as L32,H192,L32; repeat, the first is the reference."),
]
FewerSteps = Annotated[
    bool,
    typer.Option(
        "--fewer-steps",
        help="Compare with the costliest model alone, in as many steps as cost what each schedule costs.",
    ),
]
JudgePath = Annotated[
    str | None,
    typer.Option("--judge", metavar="DIR|ID", help="Causal model that scores: folder or hub id. Default: bundled."),
]
ProtocolChoice = Annotated[
    Literal["ids", "retokenized", "published"],
    typer.Option(
        help="ids: as drawn, for a judge that shares the tokenizer. retokenized: texts encoded anew by the judge's. "
        "published: the same as in the MDLM papers, special tokens kept, spaces cleaned up where the tokenizer's "
        "configuration does not say no, one end-of-text counted."
    ),
]
Retokenize = Annotated[bool, typer.Option("--retokenize", help="Short for --protocol retokenized.")]
TokenizerPath = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="DIR|ID",
        help="What reads the ids of --samples, or of models whose folders hold no tokenizer.",
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", help="Denoising steps N; needed where a schedule is in percent.")]
Length = Annotated[int | None, typer.Option("--length", help="Tokens per sample. Default: the most the models take.")]
NumSamples = Annotated[int, typer.Option("--num-samples", "-n", help="Samples of each schedule, for each seed.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Most sequences in one pass of the models.")]
JudgeBatchSize = Annotated[int, typer.Option("--judge-batch-size", help="Most sequences in one pass of the judge.")]
Seeds = Annotated[
    list[int] | None,
    typer.Option("--seed", help="All schedules share it; repeat to pool the samples of several. Default: 0."),
]
Temperatures = Annotated[
    list[float] | None,
    typer.Option("--temperature", help="Divides the logits; repeat for quality against entropy. Default: 1."),
]
TopP = Annotated[float, typer.Option("--top-p", help="Nucleus: likeliest tokens of this mass in all; 1 keeps all.")]
Noise = Annotated[
    str | None, typer.Option("--noise", help="Noise schedule: loglinear or cosine. Default: that of training.")
]
Prefix = Annotated[str | None, typer.Option("--prefix", metavar="TEXT", help="Text that every sample begins with.")]
Prefixes = Annotated[
    Path | None,
    typer.Option(
        "--prefixes",
        metavar="DIR|FILE",
        help="A prefix for each sample of every seed: held-out blocks of a prepared folder, or lines of a text file. "
        "Only what follows is judged.",
    ),
]
PrefixLength = Annotated[
    int | None, typer.Option("--prefix-length", help="Tokens of each of --prefixes, a begin token included.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Prepared training text: adds n-gram overlap with it."),
]
SelfBleu = Annotated[bool, typer.Option("--self-bleu", help="Add self-BLEU, how alike samples are (extra: eval).")]
Mauve = Annotated[bool, typer.Option("--mauve", help="Add MAUVE against held-out blocks of --data (extra: mauve).")]
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE.json", help="Write everything to this file.")]
PerSample = Annotated[bool, typer.Option("--per-sample", help="With --output or --json: the values of each sample.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
