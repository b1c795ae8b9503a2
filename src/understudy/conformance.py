"""What every denoiser must hold to, as a test class: a new family derives from it and says how one is made.

    from understudy.conformance import DenoiserConformance

    class TestMine(DenoiserConformance):
        def make(self):
            return my_denoiser()

Run by pytest, which finds the methods; small models with random weights are enough. Shapes: B batch, L length, V
vocabulary, R positions.
"""

import numpy as np
import torch

from understudy.denoisers.protocol import Denoiser, Positions
from understudy.noise import noise_schedule
from understudy.reveal import RevealPlan
from understudy.sampling import SamplingTask, sample
from understudy.sampling.draw import inverse_cdf, probabilities

BATCH, STEPS = 3, 7


class DenoiserConformance:
    """Derive, and give `make`. tolerance: greatest difference of two ways to the same logits."""

    length = 8
    tolerance = 1e-5

    def make(self) -> Denoiser:
        """Give a denoiser, the same one every time."""
        raise NotImplementedError

    def canvas(self, model: Denoiser, *, batch: int = BATCH) -> torch.Tensor:
        """Sequences (B, L), half masked, of tokens that the model itself can draw."""
        generator = torch.Generator().manual_seed(0)
        xt = torch.full((batch, self.length), model.mask_id)
        logits = model.logits(xt.to(model.device), self.times(model, batch)).cpu()
        uniforms = torch.rand(batch * self.length, generator=generator, dtype=torch.float64)
        tokens = inverse_cdf(probabilities(logits.flatten(0, 1), model.mask_id), uniforms).view(batch, self.length)
        masked = torch.rand((batch, self.length), generator=generator) < 0.5
        masked[:, 0], masked[:, -1] = True, False
        return tokens.masked_fill(masked, model.mask_id)

    def times(self, model: Denoiser, batch: int) -> torch.Tensor | None:
        """Times (B,) for a model that reads them."""
        return torch.linspace(0.2, 0.8, batch) if model.uses_time else None

    def test_logits_have_the_shape_of_what_is_asked(self) -> None:
        """Everywhere (B, L, V); at positions (R, V)."""
        model = self.make()
        xt = self.canvas(model).to(model.device)
        assert model.logits(xt, self.times(model, BATCH)).shape == (BATCH, self.length, model.vocab_size)
        where = Positions(np.array([0, 0, 1, 2]), np.array([0, 3, 2, 1]))
        assert model.logits(xt, self.times(model, BATCH), where).shape == (4, model.vocab_size)
        assert 0 <= model.mask_id < model.vocab_size

    def test_positions_are_picked_from_the_whole(self) -> None:
        """Logits at positions are those that stand there when all are asked for."""
        model = self.make()
        xt, times = self.canvas(model).to(model.device), self.times(model, BATCH)
        where = Positions(np.array([0, 0, 1, 2, 2, 2]), np.array([0, 5, 7, 0, 1, 6]))
        dense = model.logits(xt, times)[where.rows, where.cols]
        sparse = model.logits(xt, times, where)
        drawn = torch.isfinite(dense)
        assert torch.equal(drawn, torch.isfinite(sparse))
        assert float((dense[drawn] - sparse[drawn]).abs().max()) <= self.tolerance

    def test_no_sequence_sees_another(self) -> None:
        """A sequence has the same logits alone and beside others: to the last bit on the CPU."""
        model = self.make()
        xt, times = self.canvas(model).to(model.device), self.times(model, BATCH)
        cols = np.arange(self.length)
        together = model.logits(xt, times, Positions(np.repeat(np.arange(BATCH), self.length), np.tile(cols, BATCH)))
        for row in range(BATCH):
            own = None if times is None else times[row : row + 1]
            alone = model.logits(xt[row : row + 1], own, Positions(np.zeros_like(cols), cols))
            part = together[row * self.length : (row + 1) * self.length]
            if model.device.type == "cpu":
                assert torch.equal(alone, part)
            drawn = torch.isfinite(alone)
            assert float((alone[drawn] - part[drawn]).abs().max()) <= self.tolerance

    def test_some_token_can_be_drawn_everywhere(self) -> None:
        """Every row has a finite logit beside the mask's, and none is not a number."""
        model = self.make()
        logits = model.logits(self.canvas(model).to(model.device), self.times(model, BATCH)).cpu()
        assert not bool(torch.isnan(logits).any())
        assert bool(torch.isfinite(probabilities(logits, model.mask_id)).all())

    def test_cost_grows_with_length_and_positions(self) -> None:
        """A pass costs something, a longer one more, and one with fewer logits not more."""
        model = self.make()
        full = model.pass_flops(self.length)
        assert 0 < full.total < model.pass_flops(2 * self.length).total
        assert model.pass_flops(self.length, 1).total <= model.pass_flops(self.length, self.length).total <= full.total

    def test_sampling_is_a_plain_loop(self) -> None:
        """A sampling run is the loop over a plan's steps, written out."""
        model = self.make()
        task = SamplingTask.create({"A": model}, f"A{STEPS}", length=self.length, num_samples=2, seed=3, batch_size=1)
        plan, law = task.plan, noise_schedule(model.noise or "loglinear")
        assert isinstance(plan, RevealPlan)
        times = law.grid(STEPS, 0.0)
        canvas = torch.full((2, self.length), model.mask_id)
        for step in range(STEPS):
            for row in range(2):
                cols = np.flatnonzero(plan.reveal_step[row] == step)
                if len(cols) == 0:
                    continue
                t = torch.tensor([times[step]]) if model.uses_time else None
                where = Positions(np.zeros_like(cols), cols)
                logits = model.logits(canvas[row : row + 1].to(model.device), t, where).cpu()
                uniforms = torch.from_numpy(plan.uniforms[row, cols])
                canvas[row, cols] = inverse_cdf(probabilities(logits, model.mask_id), uniforms)
        result = sample({"A": model}, f"A{STEPS}", length=self.length, num_samples=2, seed=3, batch_size=1)
        assert torch.equal(result.tokens, canvas)
        assert model.mask_id not in result.tokens
