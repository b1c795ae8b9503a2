"""The model `understudy` of lm-evaluation-harness: texts scored by the bound, answers sampled under a schedule."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from understudy import __version__
from understudy.denoisers.model_set import ModelSet
from understudy.errors import SettingError
from understudy.harness.bound import Target, log_likelihood_bounds
from understudy.harness.settings import (
    DEFAULT_GEN_LENGTH,
    HarnessSettings,
    load_harness_models,
    read_args,
    split_args,
)
from understudy.harness.text import (
    Ids,
    begin_ids,
    chat_text,
    cut,
    encode_context,
    encode_pair,
    noise_index,
    windows,
)
from understudy.sampling import DecodingOptions, SamplingTask, decode, decoding_task

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise SettingError("this needs lm-eval: pip install 'understudy[harness]'") from error

DEFAULT_STEPS = 256
MAX_GEN_TOKS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class UnderstudyLM(LM):
    """Models under a schedule, as lm-eval sees one model.

    models: by key, with their tokenizer. settings: see there; `create_from_arg_string` reads both from `model_args`
    such as `heavy=DIR,light=DIR,schedule=L25%,H50%,L25%,steps=64,gen_length=64,mc_num=32`.

    An answer is a function of its request, the seed, the models and the schedule: neither the batch nor the other
    requests matter, except that a context which comes again is sampled anew. It runs in one process.
    standard_errors: of the texts scored last, in the order of the requests, in nats.

    Raises, before any request, the errors of `decoding_task` for a schedule, decoding rule or length that do not fit.
    """

    def __init__(self, models: ModelSet, settings: HarnessSettings | None = None) -> None:
        super().__init__()
        self.models, self.settings = models, settings or HarnessSettings()
        self.tokenizer = models.tokenizer
        self.begin = begin_ids(models)
        known = [model.max_length for model in models.denoisers.values() if model.max_length is not None]
        self.max_length: int | None = self.settings.max_length or min(known, default=None)
        if self.max_length is not None and self.max_length <= len(self.begin):
            raise SettingError(f"max_length is {self.max_length}, which leaves no room after the begin token; raise it")
        request = SamplingTask.create(
            models.denoisers, self.settings.schedule, steps=self._num_steps(), length=self.max_length or 1
        )
        self.schedule, self.noise = request.schedule, request.noise
        if self.settings.gen_length is not None:
            self._room(self.settings.gen_length)
        longest = self.settings.gen_length or (self.max_length or request.schedule.num_steps) - len(self.begin)
        template = [*self.begin, *[request.mask_id] * longest]
        decoding_task(models.denoisers, self.schedule, **self._decoding(np.array([template])))
        self.standard_errors: list[float] = []
        self._all_errors: list[float] = []
        self._passes: Counter[str] = Counter()

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> "UnderstudyLM":
        """Read `model_args` written as one string; commas within a schedule need no quoting. Errors as below."""
        return cls.create_from_arg_obj(split_args(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "UnderstudyLM":
        """Load the models that `model_args` name; what they say goes before lm-eval's own options.

        On lm-eval's command line a schedule with commas stands in parentheses: `schedule=(L16,H32,L16)`. Raises the
        errors of `read_args`, `load_model_set` and of the class.
        """
        loading, settings = read_args({**(additional_config or {}), **arg_dict})
        return cls(load_harness_models(**loading), settings)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Bounds on log p(continuation | context), in nats, and whether greedy decoding gives the continuation.

        Continuations of one context and length are masked in the same way, so that their difference is known better
        than each of them. Contexts too long are cut at the left, continuations too long are scored in pieces.
        """
        pairs = [encode_pair(self.models, *request.args) for request in requests]
        parts = [windows(*pair, self.max_length, self.begin) for pair in pairs]
        scored = self._score(
            [[Target(tuple(given), tuple(ids), noise_index(given)) for given, ids in part] for part in parts],
            disable_tqdm,
        )
        greedy = self._are_greedy(parts) if self.settings.is_check_greedy else [False] * len(parts)
        answers = list(zip(scored, greedy, strict=True))
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Bounds on log p(text), in nats; a text longer than the models take is the sum of its pieces (`windows`)."""
        parts = []
        for (text,) in (request.args for request in requests):
            ids = encode_context(self.models, text)[len(self.begin) :]
            pieces = windows(self.begin, ids, self.max_length, self.begin)
            # Of the text as well, not of the context alone, which is the same for many: their errors must not add up.
            parts.append([Target(tuple(given), tuple(own), noise_index([*given, *own])) for given, own in pieces])
        answers = self._score(parts, disable_tqdm)
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Text that follows each context, up to the first string of `until` or the end token.

        `gen_length` new tokens are sampled after the end of the context that fits before them; temperature (0 unless
        `do_sample` or a temperature asks for more) and top_p are those of the request. Requests with contexts of equal
        length share passes.
        """
        groups: dict[tuple[int, int, float, float], list[tuple[int, Ids, int]]] = {}
        seen: Counter[int] = Counter()
        for place, (context, options) in enumerate(request.args for request in requests):
            length, heat, top_p = self._sampling(options)
            given = self._context(context, length)
            index = noise_index(given)
            groups.setdefault((len(given), length, heat, top_p), []).append((place, given, index + seen[index]))
            seen[index] += 1
        answers = [""] * len(requests)
        with _bar(len(requests), "Sampling", disable_tqdm) as advance:
            for (size, length, heat, top_p), members in sorted(groups.items(), reverse=True):
                for (place, _, _), ids in zip(members, self._generate(members, length, heat, top_p), strict=True):
                    context, options = requests[place].args
                    answers[place] = cut(self.models, ids[size:], _listed(options.get("until")))
                    self.cache_hook.add_partial("generate_until", (context, options), answers[place])
                advance(len(members))
        return answers

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as the tokenizer's own template writes it. Raises PromptError where it has none."""
        return chat_text(self.tokenizer, chat_history, is_open=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's template where one is asked for, for lm-eval's record; a name chooses among several."""
        own = getattr(self.tokenizer, "chat_template", None)
        if not chat_template or own is None:
            return None
        if isinstance(own, dict):
            return cast("str | None", own.get(chat_template if isinstance(chat_template, str) else "default"))
        return str(own)

    @property
    def tokenizer_name(self) -> str:
        """What tells lm-eval's cache of requests apart: where the models are from."""
        return ",".join(self.models.paths.values()).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside its results: settings, models, passes by key, errors of all texts scored."""
        errors = [error for error in self._all_errors if math.isfinite(error)]
        return {
            "understudy_version": __version__,
            "schedule": str(self.schedule),
            "models": dict(self.models.paths),
            "model_sha256": dict(self.models.digests),
            **{name: getattr(self.settings, name) for name in ("mc_num", "seed", "decoding", "gen_length")},
            "max_length": self.max_length,
            "passes": dict(self._passes),
            "loglikelihood_mean_standard_error": float(np.mean(errors)) if errors else None,
            "loglikelihood_max_standard_error": max(errors, default=None),
        }

    def _num_steps(self) -> int | None:
        """The number of steps, where it is not the schedule's to say."""
        wanted = self.settings
        if wanted.steps is not None or wanted.schedule is not None:
            return wanted.steps
        is_paced = wanted.decoding not in ("ancestral", "first_hitting") and wanted.threshold is None
        return min(DEFAULT_STEPS, wanted.gen_length or DEFAULT_STEPS) if is_paced else DEFAULT_STEPS

    def _decoding(self, template: NDArray[np.int64]) -> DecodingOptions:
        """How to sample the free positions of a template (n, L)."""
        wanted = self.settings
        return {
            "template": template,
            "num_samples": len(template),
            "seed": wanted.seed,
            "batch_size": wanted.batch_size,
            "cuda_graphs": len(template) >= wanted.batch_size,  # else capturing costs more than it saves
            "decoding": wanted.decoding,
            "block_length": wanted.block_length,
            "threshold": wanted.threshold,
        }

    def _room(self, gen_length: int) -> int | None:
        """Tokens of context that fit before so many new ones; None where there is no limit."""
        if self.max_length is None:
            return None
        if gen_length + len(self.begin) > self.max_length:
            raise SettingError(
                f"{gen_length} new tokens do not fit into the {self.max_length} that the models take; "
                "give a smaller gen_length among the model arguments"
            )
        return self.max_length - gen_length

    def _context(self, text: str, gen_length: int) -> Ids:
        ids, room = encode_context(self.models, text), self._room(gen_length)
        if room is None or len(ids) <= room:
            return ids
        return [*self.begin, *ids[len(ids) - (room - len(self.begin)) :]]

    def _sampling(self, options: Mapping[str, Any]) -> tuple[int, float, float]:
        """Number of new tokens, temperature and top_p of a request."""
        asked = (options[name] for name in MAX_GEN_TOKS if options.get(name) is not None)
        length = self.settings.gen_length or int(next(asked, DEFAULT_GEN_LENGTH))
        heat = options.get("temperature")
        if heat is None:
            heat = 1.0 if options.get("do_sample") else 0.0
        top_p = options.get("top_p")
        return length, 0.0 if options.get("do_sample") is False else float(heat), float(1.0 if top_p is None else top_p)

    def _generate(
        self, members: Sequence[tuple[int, Ids, int]], length: int, temperature: float, top_p: float
    ) -> list[Ids]:
        """Sequences of requests whose contexts are equally long, each with the noise of its own index."""
        mask_id = next(iter(self.models.denoisers.values())).mask_id
        options: DecodingOptions = {
            **self._decoding(np.array([[*given, *[mask_id] * length] for _, given, _ in members])),
            "indices": [index for _, _, index in members],
            "temperature": temperature,
            "top_p": top_p,
        }
        result = decode(self.models.denoisers, self.schedule, **options)
        self._passes.update(result.nfe)
        return cast("list[Ids]", result.tokens.tolist())

    def _score(self, parts: Sequence[Sequence[Target]], disable_tqdm: bool) -> list[float]:
        """Bound of each text, the sum of those of its parts; keeps the standard errors."""
        owners = [place for place, part in enumerate(parts) for _ in part]
        values, variances = np.zeros(len(parts)), np.zeros(len(parts))
        bounds = log_likelihood_bounds(
            self.models.denoisers,
            self.schedule,
            self.noise,
            [target for part in parts for target in part],
            mc_num=self.settings.mc_num,
            seed=self.settings.seed,
            batch_size=self.settings.batch_size,
        )
        with _bar(len(owners), "Scoring", disable_tqdm) as advance:
            for place, bound in bounds:
                values[owners[place]] += bound.value
                variances[owners[place]] += bound.standard_error**2
                self._passes.update(bound.passes)
                advance(1)
        self.standard_errors = np.sqrt(variances).tolist()
        self._all_errors += self.standard_errors
        logging.getLogger(__name__).info(
            "scored %d texts; mean standard error %.3g nats", len(parts), sum(self.standard_errors) / max(1, len(parts))
        )
        return values.tolist()

    def _are_greedy(self, parts: Sequence[Sequence[tuple[Ids, Ids]]]) -> list[bool]:
        """Whether revealing the likeliest token of the surest position, one by one, gives each text."""
        flat = [(place, given, ids) for place, part in enumerate(parts) for given, ids in part]
        by_length: dict[int, list[tuple[int, Ids, Ids]]] = {}
        for member in flat:
            by_length.setdefault(len(member[1]) + len(member[2]), []).append(member)
        mask_id = next(iter(self.models.denoisers.values())).mask_id
        found = [True] * len(parts)
        for members in by_length.values():
            options: DecodingOptions = {
                **self._decoding(np.array([[*given, *[mask_id] * len(ids)] for _, given, ids in members])),
                "decoding": "low_confidence",
                "block_length": None,
                "threshold": 1.0,  # the surest alone, and whatever else is certain
                "temperature": 0.0,
            }
            result = decode(self.models.denoisers, self.schedule, **options)
            self._passes.update(result.nfe)
            for (place, given, ids), row in zip(members, result.tokens.tolist(), strict=True):
                found[place] &= row[len(given) :] == ids
        return found


def _listed(until: str | Sequence[str] | None) -> list[str]:
    return [until] if isinstance(until, str) else list(until or ())


@contextmanager
def _bar(total: int, title: str, is_off: bool) -> Iterator[Any]:
    """A progress bar on standard error, as lm-eval's own models show one."""
    from tqdm import tqdm

    with tqdm(total=total, desc=title, disable=is_off) as bar:
        yield bar.update


register_model("understudy")(UnderstudyLM)
