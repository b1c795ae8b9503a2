"""Small known laws, the law an N-step ancestral sampler has under them, and how to hold samples against it."""

from collections import defaultdict
from itertools import pairwise, product

import numpy as np
import torch

from understudy.denoisers.exact import ExactDenoiser
from understudy.noise import noise_schedule
from understudy.schedule import ModelSchedule

FALSE_ALARM = 1e-6
"""Probability with which a right sampler fails one chi-square check, were its seed drawn anew."""


def random_law(num_tokens, length, seed, sharpness=2.0):
    """A law in which positions depend on each other: Dirichlet-like weights over all sequences."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand((num_tokens,) * length, generator=generator, dtype=torch.float64) ** sharpness
    return weights / weights.sum()


def ancestral_law(denoisers, schedule, template, noise="loglinear", t_end=0.0):
    """Law of N-step ancestral sampling by enumeration: {sequence: probability}, knowing nothing of the samplers.

    At each step every masked position independently stays masked with probability 1 − r or takes v with r·p(v). Where
    the grid stops at t_end > 0, the last segment's model draws all that is left in one clean-up pass, r = 1.
    """
    law = noise_schedule(noise)
    schedule = ModelSchedule.parse(schedule)
    times = law.grid(schedule.num_steps, t_end)
    reveals = [law.reveal_prob(float(start), float(end)) for start, end in pairwise(times)]
    steps = [*zip(schedule.steps(), reveals, strict=True), *([(schedule.segments[-1].key, 1.0)] if t_end > 0 else [])]
    canvases = {tuple(template): 1.0}
    for key, reveal in steps:
        canvases = after_step(canvases, denoisers[key], reveal)
    return canvases


def after_step(canvases, model, reveal):
    """{canvas: probability} after a step: every masked position independently takes v with reveal·p(v), or stays."""
    following = defaultdict(float)
    for canvas, mass in canvases.items():
        probs = torch.softmax(model.logits(torch.tensor([canvas]))[0], -1).tolist()
        choices = [
            [(token, 1.0)]
            if token != model.mask_id
            else [(model.mask_id, 1 - reveal)] + [(v, reveal * p) for v, p in enumerate(row) if p > 0]
            for token, row in zip(canvas, probs, strict=True)
        ]
        for combination in product(*choices):
            following[tuple(token for token, _ in combination)] += mass * float(np.prod([p for _, p in combination]))
    return {canvas: mass for canvas, mass in following.items() if mass > 0}


def chi_square_p_value(tokens, law):
    """p-value of Pearson's test that the rows of tokens (n, L) come from `law`; cells expecting < 5 are pooled."""
    counts = defaultdict(int)
    for row in tokens.tolist():
        counts[tuple(row)] += 1
    assert set(counts) <= set(law), "a sequence of probability 0 was drawn"
    expected = {sequence: mass * len(tokens) for sequence, mass in law.items()}
    large = [sequence for sequence, value in expected.items() if value >= 5]
    pairs = [(counts[s], expected[s]) for s in large]
    rest = (len(tokens) - sum(c for c, _ in pairs), len(tokens) - sum(e for _, e in pairs))
    if rest[1] >= 5:
        pairs.append(rest)
    statistic = sum((count - value) ** 2 / value for count, value in pairs)
    freedom = len(pairs) - 1
    return float(torch.special.gammaincc(torch.tensor(freedom / 2), torch.tensor(statistic / 2)))


def exact_pair(num_tokens=2, length=3):
    """Two exact denoisers of different laws, as heavy and light."""
    return {
        "H": ExactDenoiser(random_law(num_tokens, length, seed=1)),
        "L": ExactDenoiser(random_law(num_tokens, length, seed=2)),
    }


class TableDenoiser:
    """An exact denoiser as one look-up in a table of all canvases, on any device: what can be captured as a graph."""

    uses_time, noise, begin_id = False, None, None

    def __init__(self, exact, device="cpu"):
        self.mask_id, self.vocab_size, self.max_length = exact.mask_id, exact.vocab_size, exact.max_length
        self.device = torch.empty(0, device=device).device
        canvases = torch.tensor(list(product(range(self.vocab_size), repeat=self.max_length)))
        self.table = exact.logits(canvases).to(self.device)
        self.digits = (self.vocab_size ** torch.arange(self.max_length - 1, -1, -1)).to(self.device)
        self.pass_flops = exact.pass_flops

    def logits(self, xt, t=None, where=None):
        logits = self.table[(xt * self.digits).sum(-1)]
        if where is None:
            return logits
        rows, cols = (torch.from_numpy(index).to(self.device) for index in (where.rows, where.cols))
        return logits[rows, cols]

    def logits_at(self, xt, columns, flat, time=None):
        wanted = columns[..., None].expand(-1, -1, self.vocab_size)
        return self.logits(xt).gather(1, wanted).flatten(0, 1)[flat]

    def encode_time(self, t):
        return t


def exact_step_divergence(denoisers, num_steps, template=None, noise="loglinear"):
    """D_k (N,) of model L against H's own trajectories, by enumeration, from the definition."""
    heavy, light = denoisers["H"], denoisers["L"]
    law = noise_schedule(noise)
    canvases = {tuple([heavy.mask_id] * heavy.max_length if template is None else template): 1.0}
    found = []
    for before, after in pairwise(law.grid(num_steps)):
        reveal = law.reveal_prob(float(before), float(after))
        total = 0.0
        for canvas, mass in canvases.items():
            p, q = (torch.softmax(model.logits(torch.tensor([canvas]))[0], -1) for model in (heavy, light))
            terms = torch.where(p > 0, p * (p.log() - q.log()), 0.0).sum(-1)
            total += mass * float(terms[torch.tensor(canvas) == heavy.mask_id].sum())
        found.append(reveal * total)
        canvases = after_step(canvases, heavy, reveal)
    return np.array(found)
