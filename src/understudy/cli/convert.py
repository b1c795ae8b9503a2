"""`understudy convert`: a published checkpoint in our own layout."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

Checkpoint = Annotated[
    str, typer.Argument(help="Lightning file (.ckpt) of MDLM's or duo's code, or published MDLM folder or hub id.")
]
Output = Annotated[Path, typer.Option("--output", help="New folder for the model.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer", metavar="DIR|ID", help="Tokenizer that goes along: gpt2, bert-base-uncased or a folder."
    ),
]
Weights = Annotated[
    Literal["ema", "raw"], typer.Option("--weights", help="Of a Lightning file: averaged weights or the last ones.")
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"], typer.Option("--dtype", help="Number format of the written weights.")
]
Heads = Annotated[int | None, typer.Option("--heads", help="Attention heads, where a Lightning file does not say.")]
Length = Annotated[int | None, typer.Option("--length", help="Tokens of a training block, where it does not say.")]
Noise = Annotated[
    Literal["loglinear", "cosine"] | None, typer.Option("--noise", help="Noise of the training, where it does not say.")
]
TimeConditioning = Annotated[
    bool | None,
    typer.Option(
        "--time-conditioning/--no-time-conditioning", help="Whether it saw the noise level, where it does not say."
    ),
]
MaskId = Annotated[
    int | None, typer.Option("--mask-id", help="The mask, where neither tokenizer nor vocabulary size tell.")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Commit, branch or tag of a hub id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def convert_command(
    checkpoint: Checkpoint,
    output: Output,
    tokenizer: Tokenizer = None,
    weights: Weights = "ema",
    dtype: Dtype = "float32",
    heads: Heads = None,
    length: Length = None,
    noise: Noise = None,
    time_conditioning: TimeConditioning = None,
    mask_id: MaskId = None,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Turn a published MDLM checkpoint into a model folder, without running any code that it carries.

    Sizes are read from the file and checked against its tensors. What was decided is said on standard error.
    """
    import torch

    from understudy.denoisers.conversion import Stated, convert

    done = convert(
        checkpoint,
        output,
        tokenizer=tokenizer,
        weights=weights,
        stated=Stated(heads, length, noise, time_conditioning, mask_id),
        dtype={"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype],
        revision=revision,
    )
    hint = "" if done.tokenizer else "; no tokenizer: name one with --tokenizer when you sample"
    typer.echo(f"{done.description}; {done.weights} weights in {done.dtype}{hint}", err=True)
    if as_json:
        document = {
            "checkpoint": checkpoint,
            "output": str(output),
            "description": done.description,
            "weights": done.weights,
            "dtype": done.dtype,
            "tokenizer": done.tokenizer,
            "config": done.config,
        }
        typer.echo(json.dumps(document, ensure_ascii=False, default=str))
    else:
        typer.echo(str(output))
