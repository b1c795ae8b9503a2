"""What the judge and the counts say of one set of samples."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy import metrics
from understudy.errors import SettingError
from understudy.evaluation.judging import Bools, Ids, Judge, Protocol, Reading, reading_of
from understudy.evaluation.references import ReferenceText
from understudy.metrics import MIN_TEXTS, Tokens
from understudy.text_runs import decode_ids

REPETITION_N, OVERLAP_N = 4, 8
PER_SAMPLE = ("nll_sums", "counts", "entropies", "repetitions", "overlaps")


@dataclass(frozen=True)
class SampleScores:
    """What the judge and the counts say of n samples; see `metrics` for the definitions.

    gen_ppl_ci95: bootstrap over samples; None for a single sample. context_length: of the judge; longer samples were
    read in windows. entropy (nats), repetition (n = 4), ngram_overlap (n = 8, with the training text): means over the
    samples of what was sampled, not given; with `_se` their standard errors. self_bleu: mean, 0 to 100. mauve: mean
    over the seeds of its clustering, each in mauve_by_seed. None where it was not asked for.
    nll_sums, counts, entropies, repetitions, overlaps: per sample, kept so that schedules can be paired and other
    intervals computed.
    """

    gen_ppl: float
    gen_ppl_ci95: tuple[float, float] | None
    entropy: float
    entropy_se: float | None
    distinct_1: float
    distinct_2: float | None
    repetition: float
    repetition_se: float | None
    self_bleu: float | None
    ngram_overlap: float | None
    ngram_overlap_se: float | None
    mauve: float | None
    mauve_by_seed: tuple[float, ...] | None
    num_samples: int
    judge: str
    context_length: int | None
    protocol: Protocol
    nll_sums: tuple[float, ...]
    counts: tuple[int, ...]
    entropies: tuple[float, ...]
    repetitions: tuple[float, ...]
    overlaps: tuple[float, ...] | None

    def to_dict(self, *, per_sample: bool = False) -> dict[str, Any]:
        """Plain values for JSON; `per_sample` adds what is known of each sample."""
        numbers = {"num_tokens": sum(self.counts), **asdict(self)}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in numbers.items()}
        lists = {name: values.pop(name) for name in PER_SAMPLE}
        return {**values, **lists} if per_sample else values


@dataclass(frozen=True)
class Scoring:
    """How samples are scored: by which protocol, and with which of the slower metrics.

    judge_batch_size: most windows that the judge reads at once. bos_id: as in `metrics.token_nlls`. self_bleu: needs
    the extra `eval`. references: adds n-gram overlap with its train split; with `mauve`, which needs the extra of that
    name, features of its validation split are compared too.
    """

    protocol: Protocol = "ids"
    judge_batch_size: int = 8
    bos_id: int | None = None
    self_bleu: bool = False
    references: ReferenceText | None = None
    mauve: bool = False

    def __post_init__(self) -> None:
        wanted = ((self.self_bleu, "self-BLEU", "sacrebleu", "eval"), (self.mauve, "MAUVE", "mauve", "mauve"))
        for is_wanted, name, package, extra in wanted:
            if is_wanted and find_spec(package) is None:  # said now, not after hours of sampling
                raise SettingError(f"{name} needs another package: pip install 'understudy[{extra}]'")
        if self.mauve and self.references is None:
            raise SettingError("MAUVE compares with held-out text; give the folder that `understudy prepare` wrote")
        if self.judge_batch_size < 1:
            raise SettingError(f"the judge's batch_size is {self.judge_batch_size}; it must be at least 1")

    def check(self, *, tokenizer: Any, num_samples: int, length: int) -> None:
        """Raise SettingError or DataError for samples that cannot be set beside the reference text."""
        if self.references is not None:
            self.references.check_tokenizer(tokenizer)
        if self.references is not None and self.mauve:
            found = len(self.references.held_out(num_samples, length))
            if min(num_samples, found) < MIN_TEXTS:
                raise SettingError(
                    f"MAUVE of {num_samples} samples and {found} held-out blocks; give {MIN_TEXTS} or more of each"
                )


@dataclass(frozen=True)
class JudgedSamples:
    """Samples and what the judge says of each: rows of ids, bools per id (false where given), sums and counts (n,)."""

    rows: Sequence[Ids]
    free: Sequence[Bools] | Bools
    nll_sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def written(self) -> list[Ids]:
        """The ids that were sampled, without those that were given."""
        return [row[mine] for row, mine in zip(self.rows, self.free, strict=True)]


def judge_samples(
    judge: Judge, rows: Sequence[Ids], free: Sequence[Bools] | Bools, reading: Reading, scoring: Scoring
) -> JudgedSamples:
    """Have a judge read samples (`reading_of`). Errors as `metrics.token_nlls`."""
    nlls = judge.nlls(reading, batch_size=scoring.judge_batch_size, bos_id=scoring.bos_id)
    sums, counts = np.array([values.sum() for values in nlls]), np.array([len(values) for values in nlls])
    return JudgedSamples(rows, free, sums, counts)


def summarise_scores(
    judge: Judge,
    judged: JudgedSamples,
    scoring: Scoring,
    *,
    texts: Sequence[str] | None = None,
    overlaps: NDArray[np.float64] | None = None,
    mauve: NDArray[np.float64] | None = None,
) -> SampleScores:
    """Turn values per sample into figures. texts: for self-BLEU. overlaps (n,), mauve (seeds,): computed beforehand."""
    sums, counts, written = judged.nll_sums, judged.counts, judged.written
    entropies, repetitions = metrics.token_entropy(written), metrics.repetition(written, REPETITION_N)
    entropy, entropy_se = metrics.mean_and_error(entropies)
    repetition, repetition_se = metrics.mean_and_error(repetitions)
    overlap, overlap_se = (None, None) if overlaps is None else metrics.mean_and_error(overlaps)
    return SampleScores(
        gen_ppl=metrics.generative_perplexity(sums, counts),
        gen_ppl_ci95=metrics.bootstrap_interval(sums, counts) if len(written) > 1 else None,
        entropy=entropy,
        entropy_se=entropy_se,
        distinct_1=metrics.distinct_n(written, 1),
        distinct_2=metrics.distinct_n(written, 2) if max(map(len, written)) > 1 else None,
        repetition=repetition,
        repetition_se=repetition_se,
        self_bleu=float(metrics.self_bleu(texts).mean()) if scoring.self_bleu and texts and len(texts) > 1 else None,
        ngram_overlap=overlap,
        ngram_overlap_se=overlap_se,
        mauve=None if mauve is None else float(mauve.mean()),
        mauve_by_seed=None if mauve is None else tuple(mauve.tolist()),
        num_samples=len(written),
        judge=judge.name,
        context_length=metrics.context_length(judge.model),
        protocol=scoring.protocol,
        nll_sums=tuple(sums.tolist()),
        counts=tuple(counts.tolist()),
        entropies=tuple(entropies.tolist()),
        repetitions=tuple(repetitions.tolist()),
        overlaps=None if overlaps is None else tuple(overlaps.tolist()),
    )


def score_tokens(
    judge: Judge,
    tokens: Tokens,
    *,
    free: Sequence[Bools] | Bools | None = None,
    batch_size: int = 8,
    bos_id: int | None = None,
    tokenizer: Any = None,
    scoring: Scoring | None = None,
    reading: Reading | None = None,
    texts: Sequence[str] | None = None,
) -> SampleScores:
    """Score samples given as token ids.

    free: bools in the shape of the tokens, false where a token was given and not sampled; such tokens are read by the
    judge as context and counted nowhere. tokenizer: what reads the ids; the judge's unless given. scoring: which
    metrics, instead of batch_size and bos_id. reading, texts: what the judge is to read and what was sampled, where
    that is known already.
    n-grams are formed of what was sampled, joined where given tokens lie between.
    The errors are those of `reading_of`, `metrics.token_nlls` and the metrics that are asked for.
    """
    scoring = Scoring(judge_batch_size=batch_size, bos_id=bos_id) if scoring is None else scoring
    tokenizer = judge.tokenizer if tokenizer is None else tokenizer
    rows = metrics.sample_rows(tokens)
    mine = [np.ones(len(row), dtype=bool) for row in rows] if free is None else free
    scoring.check(tokenizer=tokenizer, num_samples=len(rows), length=min(map(len, rows)))
    if reading is None:
        reading = reading_of(judge, rows, mine, protocol=scoring.protocol, tokenizer=tokenizer)
    judged = judge_samples(judge, rows, mine, reading, scoring)
    overlaps = features = None
    if scoring.references is not None:
        overlaps = metrics.ngram_overlap(judged.written, scoring.references.training_chunks(), n=OVERLAP_N)
        if scoring.mauve:
            held_out = reference_features(judge, scoring, count=len(rows), length=min(map(len, rows)))
            features = mauve_of(judge, reading, scoring, held_out)
    if texts is None and scoring.self_bleu:
        texts = written_texts(judged.written, tokenizer)
    return summarise_scores(judge, judged, scoring, texts=texts, overlaps=overlaps, mauve=features)


def written_texts(written: Sequence[Ids], tokenizer: Any) -> list[str]:
    """Text of what was sampled, special tokens left out."""
    return [decode_ids(tokenizer, row.tolist(), special=False) for row in written]


def reference_features(judge: Judge, scoring: Scoring, *, count: int, length: int) -> NDArray[np.float64]:
    """The judge's features of at most `count` held-out blocks, cut to `length` tokens."""
    assert scoring.references is not None  # `Scoring` sees to it
    return scoring.references.features(
        judge, count=count, length=length, protocol=scoring.protocol, batch_size=scoring.judge_batch_size
    )


def mauve_of(judge: Judge, reading: Reading, scoring: Scoring, held_out: NDArray[np.float64]) -> NDArray[np.float64]:
    """MAUVE (seeds,) of what the judge reads against features of held-out blocks."""
    own = metrics.last_token_features(judge.model, list(reading.rows), batch_size=scoring.judge_batch_size)
    return metrics.mauve(own, held_out)
