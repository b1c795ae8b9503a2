"""What goes over the wire: OpenAI's completions, and what a schedule adds to them.

A field that is not known, or that cannot be honoured, is refused: nothing changes its meaning silently.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from understudy.reveal import MAX_SEED

DEFAULT_MAX_TOKENS = 16  # OpenAI's
CANVAS_EVERY = 10

# What may stand in a field of several forms, of which pydantic names all that do not fit, one by one.
FORMS = {
    "prompt": "a text, token ids (whole numbers from 0), or a list of either that is not empty",
    "stop": "a text of 1 to 1000 characters, or a list of up to 4 of them",
}

Ids = Annotated[list[Annotated[int, Field(strict=True, ge=0, le=2**31)]], Field(min_length=1)]
Text = StrictStr
Stop = Annotated[StrictStr, Field(min_length=1, max_length=1000)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def _disagreement(param: str, message: str) -> PydanticCustomError:
    """What is wrong between fields, and the one to name."""
    return PydanticCustomError("disagreement", "{message}", {"message": message, "param": param})


class StreamOptions(BaseModel):
    """How to stream. include_usage: send the usage as a last chunk."""

    model_config = ConfigDict(extra="forbid")

    include_usage: StrictBool = False
    include_obfuscation: Literal[False] | None = None


class CompletionBody(BaseModel):
    """OpenAI's body of a completion, and schedule, steps, noise and infill."""

    model_config = ConfigDict(extra="forbid")

    model: Text | None = Field(None, description="`understudy`, or the key of one model, which then works alone.")
    prompt: (
        Text | Annotated[list[Text], Field(min_length=1)] | Ids | Annotated[list[Ids], Field(min_length=1)] | None
    ) = Field(None, description="What the text begins with: a text, token ids, or a list of either. Empty: nothing.")
    suffix: Text | None = Field(None, description="What the text ends with.")
    infill: Text | None = Field(
        None, description="A text with [MASK] for each token that is wanted, [MASK*5] for five; instead of a prompt."
    )
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description=f"New tokens; {DEFAULT_MAX_TOKENS} unless given."
    )
    length: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description="Tokens of the whole sequence, instead of max_tokens: sequences of one length share passes."
    )
    n: Annotated[StrictInt, Field(ge=1)] | None = Field(None, description="Samples of each prompt; 1 unless given.")
    schedule: Text | None = Field(
        None,
        description="Who makes which steps, such as L12.5%,H75%,L12.5% or L32,H192,L32; the service's unless given.",
    )
    steps: Annotated[StrictInt, Field(ge=1)] | None = Field(None, description="Denoising steps.")
    noise: Literal["loglinear", "cosine"] | None = Field(
        None, description="Noise schedule; that of training unless given."
    )
    seed: Annotated[StrictInt, Field(ge=0, le=MAX_SEED)] | None = Field(
        None, description="Samples are a function of it; random unless given, and reported."
    )
    temperature: Annotated[Real, Field(ge=0)] | None = Field(None, description="Divides the logits; 1 unless given.")
    top_p: Annotated[Real, Field(gt=0, le=1)] | None = Field(None, description="Nucleus; 1 unless given.")
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = Field(
        None, description="Texts before which a completion ends."
    )
    ignore_eos: StrictBool = Field(False, description="Go on after the token with which the models end a document.")
    echo: StrictBool | None = Field(None, description="Put the prompt before the completion.")
    return_token_ids: StrictBool = Field(False, description="Give the token ids of each choice.")
    stream: StrictBool | None = Field(None, description="Send what is final from the left as soon as it is.")
    stream_options: StreamOptions | None = None
    user: Text | None = Field(None, description="Has no effect.")
    best_of: StrictInt | None = Field(None, description="n, if it is given.")
    logprobs: None = Field(None, description="Not supported.")
    logit_bias: dict[str, float] | None = Field(None, max_length=0, description="Not supported.")
    presence_penalty: Real | None = Field(None, ge=0, le=0, description="Not supported: 0.")
    frequency_penalty: Real | None = Field(None, ge=0, le=0, description="Not supported: 0.")

    @model_validator(mode="after")
    def _agree(self) -> "CompletionBody":
        if self.best_of is not None and self.best_of != self.num_samples:
            raise _disagreement(
                "best_of", f"best_of is {self.best_of}, which is not supported; leave it out, or make it n"
            )
        if self.stream_options is not None and not self.stream:
            raise _disagreement("stream_options", "stream_options go with stream; leave them out, or stream")
        if self.length is not None and self.max_tokens is not None:
            raise _disagreement("length", "max_tokens and length both say how long a text is; give one of them")
        others = {"prompt": self.prompt, "suffix": self.suffix, "length": self.length, "stop": self.stop}
        named = [
            name
            for name, value in (others | {"max_tokens": self.max_tokens, "echo": self.echo}).items()
            if value is not None
        ]
        if self.infill is not None and named:
            raise _disagreement("infill", f"an infill says all that is given; leave out {', '.join(named)}")
        return self

    @property
    def num_samples(self) -> int:
        """Samples of each prompt."""
        return self.n or 1

    @property
    def stops(self) -> list[str]:
        """Texts before which a completion ends."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        prompt: Any = self.prompt or ""
        is_one = isinstance(prompt, str) or isinstance(prompt[0], int)
        return [prompt] if is_one else list(prompt)


class DenoiseBody(CompletionBody):
    """The body of a completion whose canvas is watched."""

    canvas_every: Annotated[StrictInt, Field(ge=0)] = Field(
        CANVAS_EVERY, description="Reveals after which the whole canvas is sent; 0: only before the first and the end."
    )


class Choice(BaseModel):
    """One sample. token_ids: its new tokens, of an infill all; only if they were asked for."""

    text: str
    index: int
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None
    token_ids: list[int] | None = None


class Usage(BaseModel):
    """Tokens given and tokens sampled, over all choices; those behind an end count too, since they were sampled."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Cost(BaseModel):
    """What the samples took. nfe: passes by model. flops: see `understudy flops`. seconds: of sampling."""

    schedule: str
    steps: int
    seed: int
    nfe: dict[str, int]
    flops: dict[str, float]
    seconds: float


class CompletionAnswer(BaseModel):
    """OpenAI's completion; of a stream one chunk of it."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    understudy: Cost | None = None

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types: OpenAI's fields always, ours where there is something to say."""
        content = self.model_dump()
        for part in (content, *content["choices"]):
            for name in {"understudy", "token_ids"}.intersection(part):
                if part[name] is None:
                    del part[name]
        return content


class ModelCard(BaseModel):
    """A model in OpenAI's terms."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "understudy"


class ModelCards(BaseModel):
    """All models in OpenAI's terms."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
