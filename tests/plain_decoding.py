"""Confidence-ordered decoding of one sequence as a plain loop: dense logits, no batch, nothing of the library's rules.

What it shares with the library is the noise, which is pinned: the j-th pass of a sample reads stream 1 + j of Philox
under the key (seed, index), 53 bits a word, one for each position.
"""

import math

import numpy as np
import torch


def plain_decoding(
    models,
    keys,
    template,
    mask,
    *,
    rule,
    block_length=None,
    threshold=None,
    seed=0,
    index=0,
    temperature=1.0,
    top_p=1.0,
):
    """Give (tokens, [(key, step, {position: token}), …]) of one sequence. keys: of each of the N steps."""
    canvas = list(template)
    free = [i for i, token in enumerate(canvas) if token == mask]
    length = block_length or len(canvas)
    blocks = [[i for i in free if start <= i < start + length] for start in range(free[0], len(canvas), length)]
    blocks = [block for block in blocks if block]
    quotas = None if threshold is not None else quotas_of([len(block) for block in blocks], len(keys))
    passes = []
    for block in blocks:
        while masked := [i for i in block if canvas[i] == mask]:
            done = sum(canvas[i] != mask for i in free)
            step = len(passes) if quotas else math.floor(done / len(free) * len(keys) + 1e-9)
            logits = models[keys[step]].logits(torch.tensor([canvas]))[0].double()
            logits[:, mask] = -math.inf
            noise = np.random.Philox(key=[seed, index], counter=[0, 1 + len(passes), 0, 0]).random_raw(len(canvas))
            drawn, scores = {}, {}
            for i in masked:
                law = softmax(logits[i].tolist(), temperature)
                law = nucleus(law, top_p)
                drawn[i] = pick(law, (int(noise[i]) >> 11) / 2**53, greedy=temperature == 0)
                scores[i] = score_of(rule, softmax(logits[i].tolist(), 1), law, drawn[i])
            ranked = sorted(masked, key=lambda i: (-scores[i], i))
            if quotas:
                kept = ranked[: quotas[len(passes)]]
            else:
                kept = [i for i in masked if scores[i] >= threshold] or ranked[:1]
            for i in kept:
                canvas[i] = drawn[i]
            passes.append((keys[step], step, {i: drawn[i] for i in kept}))
    return canvas, passes


def quotas_of(sizes, num_steps):
    """LLaDA's: equal steps for equal blocks, and in each block an equal split whose remainder goes first."""
    assert len(set(sizes)) == 1, "this plain statement knows blocks of one size"
    assert num_steps % len(sizes) == 0, "this plain statement divides steps evenly"
    steps = num_steps // len(sizes)
    return [size // steps + (k < size % steps) for size in sizes for k in range(steps)]


def softmax(logits, temperature):
    """Plain probabilities; temperature 0 leaves the logits alone, the draw is then the likeliest token."""
    heat = temperature or 1
    top = max(logits)
    weights = [math.exp((value - top) / heat) for value in logits]
    return [weight / sum(weights) for weight in weights]


def nucleus(law, top_p):
    if top_p == 1:
        return law
    kept, mass = {}, 0.0
    for token in sorted(range(len(law)), key=lambda v: -law[v]):
        if mass >= top_p:
            break
        kept[token] = law[token]
        mass += law[token]
    return [kept.get(token, 0.0) / mass for token in range(len(law))]


def pick(law, uniform, *, greedy):
    if greedy:
        return law.index(max(law))
    total = 0.0
    for token, p in enumerate(law):
        total += p
        if uniform < total:
            return token
    return max(token for token, p in enumerate(law) if p > 0)


def score_of(rule, own, law, token):
    if rule == "low_confidence":
        return own[token]
    if rule == "margin":
        first, second = sorted(law)[-1], sorted(law)[-2]
        return first - second
    return sum(p * math.log(p) for p in law if p > 0)
