"""The MDLM network: a bidirectional diffusion transformer (DiT) as a transformers `PreTrainedModel`.

Source: Sahoo et al. 2024 (arXiv 2406.07524), whose block is the adaLN-zero DiT of Peebles and Xie
(arXiv 2212.09748) with rotary positions (arXiv 2104.09864). Shapes: B batch, L length, M positions wanted per
sequence, D width, H heads, V vocabulary.

Two exact shortcuts serve the sampler, both through `hidden_at`: in the last block only keys and values are needed
everywhere, and the head is needed only where a token is revealed.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from understudy.errors import SettingError
from understudy.noise import noise_schedule

NUM_MODULATIONS = 6  # shift, scale, gate of the attention branch, then of the MLP branch
FREQUENCY_DIM = 256  # width of the sinusoidal time embedding
ROPE_BASE = 10_000.0
SIGMA_EPS = 1e-3

_BY_ROWS: ContextVar[bool] = ContextVar("by_rows", default=False)
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "cond_dim",
)


class DiTConfig(PretrainedConfig):
    """Shape of a DiT. Defaults are the published `small` model at length 1024 (GPT-2 vocabulary plus a mask).

    time_conditioning: feed sigma(t) through adaLN. Off (MDLM's default) every modulation is a constant vector: what
        the published time-agnostic checkpoints compute is folded into it.
    noise: name of the noise schedule it was trained under; what maps t to sigma where it is conditioned.
    dropout: probability on both branch outputs, training only.
    mask_token_id: the token that stands for "masked"; the last id unless given.
    bos_token_id: the token that every training sequence began with, if there was one; a prefix goes after it.
    tie_word_embeddings: use the embedding matrix as the head (the published network does not).
    Raises SettingError for sizes that do not fit each other.
    """

    model_type = "understudy_dit"

    def __init__(
        self,
        vocab_size: int = 50258,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        max_position_embeddings: int = 1024,
        cond_dim: int = 128,
        dropout: float = 0.1,
        time_conditioning: bool = False,
        noise: str = "loglinear",
        mask_token_id: int | None = None,
        tie_word_embeddings: bool = False,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.cond_dim = cond_dim
        self.dropout = dropout
        self.time_conditioning = time_conditioning
        self.noise = noise
        self.mask_token_id = vocab_size - 1 if mask_token_id is None else mask_token_id
        super().__init__(**kwargs)
        # transformers 4 takes these four itself and transformers 5 no longer does: set after both.
        self.tie_word_embeddings = tie_word_embeddings
        self.bos_token_id, self.eos_token_id, self.pad_token_id = bos_token_id, eos_token_id, pad_token_id
        self._check()

    def _check(self) -> None:
        """SettingError for a network that cannot be."""
        for name in SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SettingError(f"{name} is {value!r}; it must be a whole number from 1")
        if self.hidden_size % (2 * self.num_attention_heads):
            heads = self.num_attention_heads
            raise SettingError(f"hidden_size {self.hidden_size} does not split into {heads} heads of even width")
        if not isinstance(self.mask_token_id, int) or not 0 <= self.mask_token_id < self.vocab_size:
            raise SettingError(f"mask_token_id is {self.mask_token_id!r}; it must lie in 0 to {self.vocab_size - 1}")
        noise_schedule(self.noise)


def rotary_table(length: int, head_dim: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (L, head_dim / 2) of the rotary angles, float32."""
    steps = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), ROPE_BASE ** (-steps / head_dim))
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys (…, head_dim) in the half-split convention of GPT-NeoX; tables (…, head_dim / 2)."""
    half = x.shape[-1] // 2
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    out = x * torch.cat([cos, cos], dim=-1)
    out[..., :half].addcmul_(x[..., half:], sin, value=-1)  # in place: no copy to join the halves
    out[..., half:].addcmul_(x[..., :half], sin)
    return out


def sinusoid(sigma: torch.Tensor) -> torch.Tensor:
    """Time embedding (B, 256) of sigma (B,): cosines then sines, longest period 10,000."""
    half = FREQUENCY_DIM // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=sigma.device, dtype=torch.float32) / half)
    angles = sigma.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sigma_of_alpha(alpha: torch.Tensor) -> torch.Tensor:
    """Noise level sigma = −log(ε + (1 − ε)·α), ε = 1e-3, that conditions the network where α of the tokens are clean.

    With log-linear noise this is the published −log1p(−(1 − ε)·t); ε keeps it finite at t = 1.
    """
    return -torch.log(SIGMA_EPS + (1 - SIGMA_EPS) * alpha)


@contextmanager
def by_rows() -> Iterator[None]:
    """Within it, products on the CPU are made row by row of the batch; for inference only.

    A product over another number of rows rounds otherwise. One product per sequence makes the answer for a sequence
    the same to the last bit whatever batch it is in; a sequence alone fills the cores nearly as well as a batch.
    """
    before = _BY_ROWS.set(True)
    try:
        yield
    finally:
        _BY_ROWS.reset(before)


def goes_by_rows(x: torch.Tensor) -> bool:
    """Whether products with x are made row by row."""
    return not torch.compiler.is_compiling() and x.device.type == "cpu" and _BY_ROWS.get()


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x·Wᵀ + b for x (B, …, D_in): as one product, or within `by_rows` as B."""
    if not goes_by_rows(x):
        return F.linear(x, weight, bias)
    out, transposed = x.new_empty(*x.shape[:-1], len(weight)), weight.t()
    for row, target in zip(x, out, strict=True):
        if bias is None:
            torch.mm(row, transposed, out=target)
        else:
            torch.addmm(bias, row, transposed, out=target)
    return out


class Linear(nn.Linear):
    """A linear layer on (B, …, D_in) by `linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return linear(x, self.weight, self.bias)


class FeedForward(nn.Sequential):
    """The MLP of a block: four times as wide, tanh-GELU."""

    def __init__(self, width: int) -> None:
        super().__init__(Linear(width, 4 * width), nn.GELU(approximate="tanh"), Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, …, D) → (B, …, D). Row by row, a sequence stays in the cache from one product to the next."""
        if not goes_by_rows(x):
            return cast(torch.Tensor, super().forward(x))  # type: ignore[no-untyped-call]
        inner, outer = cast(Linear, self[0]), cast(Linear, self[2])
        widen, narrow, out = inner.weight.t(), outer.weight.t(), torch.empty_like(x)
        for row, target in zip(x, out, strict=True):
            hidden = torch.addmm(inner.bias, row, widen)
            torch.addmm(outer.bias, gelu_(hidden), narrow, out=target)
        return out


def gelu_(x: torch.Tensor) -> torch.Tensor:
    """tanh-GELU in place, as x·sigmoid(2·√(2/π)·(x + 0.044715·x³)): PyTorch's own takes twice as long on the CPU."""
    scale = 2 * math.sqrt(2 / math.pi)
    gate = (x * x).mul_(0.044715 * scale).add_(scale).mul_(x).sigmoid_()
    return x.mul_(gate)


class ModulatedNorm(nn.Module):
    """Layer norm with a weight and no bias, eps 1e-5 (float32 under autocast), then shift and scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """norm(x)·(1 + scale) + shift, in one operation where the modulation is constant."""
        if shift.ndim == 1:
            return F.layer_norm(x, self.weight.shape, self.weight * (1 + scale), shift, 1e-5)
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5) * (1 + scale) + shift


class Modulation(nn.Module):
    """Vectors that shift, scale and gate: a linear map of the time embedding, or constants without one."""

    def __init__(self, config: DiTConfig, count: int) -> None:
        super().__init__()
        self.count = count
        width = count * config.hidden_size
        if config.time_conditioning:
            self.weight = nn.Parameter(torch.zeros(width, config.cond_dim))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, condition: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Give `count` vectors, (D,) without condition, else (B, 1, D) from `condition` (B, 1, cond_dim)."""
        if condition is None:
            return self.bias.chunk(self.count)
        return linear(condition, self.weight, self.bias).chunk(self.count, dim=-1)


class TimeEmbedding(nn.Module):
    """sigma (B,) → condition (B, 1, cond_dim)."""

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(FREQUENCY_DIM, cond_dim), nn.SiLU(), Linear(cond_dim, cond_dim))

    def forward(self, sigma: torch.Tensor) -> torch.Tensor:  # noqa: D102
        embedding = sinusoid(sigma).to(cast(nn.Linear, self.mlp[0]).weight.dtype)
        return F.silu(self.mlp(embedding[:, None]))


class DiTBlock(nn.Module):
    """One block: attention and MLP, each normed, modulated, gated and added."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.dropout = config.dropout
        self.norm1 = ModulatedNorm(width)
        self.attn_qkv = Linear(width, 3 * width, bias=False)  # rows: all of q, then k, then v
        self.attn_out = Linear(width, width, bias=False)
        self.norm2 = ModulatedNorm(width)
        self.mlp = FeedForward(width)
        self.modulation = Modulation(config, NUM_MODULATIONS)

    def forward(
        self, x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], condition: torch.Tensor | None
    ) -> torch.Tensor:
        """(B, L, D) → (B, L, D)."""
        shift, scale, gate, *mlp_modulation = self.modulation(condition)
        qkv = self._split(self.attn_qkv(self.norm1(x, shift, scale)), 3)  # (B, L, 3, H, head_dim)
        cos, sin = (table[:, None, None] for table in rope)
        q, k = rotate(qkv[:, :, :2], cos, sin).unbind(2)
        x = torch.addcmul(x, gate, self._drop(self._attend(q, k, qkv[:, :, 2])))
        return self._feed_forward(x, mlp_modulation)

    def forward_at(
        self,
        x: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        condition: torch.Tensor | None,
        columns: torch.Tensor,
    ) -> torch.Tensor:
        """(B, L, D) → (B, M, D), the block's output at `columns` (B, M) only: keys and values are made everywhere."""
        shift, scale, gate, *mlp_modulation = self.modulation(condition)
        h = self.norm1(x, shift, scale)
        rows = torch.arange(len(x), device=x.device)[:, None]
        q_weight, kv_weight = self.attn_qkv.weight.tensor_split([x.shape[-1]])
        k, v = self._split(linear(h, kv_weight), 2).unbind(2)
        q = self._split(linear(h[rows, columns], q_weight), 1).squeeze(2)
        k = rotate(k, *(table[:, None] for table in rope))
        q = rotate(q, *(table[columns][:, :, None] for table in rope))
        x = torch.addcmul(x[rows, columns], gate, self._attend(q, k, v))
        return self._feed_forward(x, mlp_modulation)

    def _split(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        """(B, L, parts·D) → (B, L, parts, H, head_dim)."""
        return x.view(*x.shape[:-1], parts, self.num_heads, -1)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Full bidirectional attention and output projection; q (B, M, H, ·), k and v (B, L, H, ·)."""
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return cast(torch.Tensor, self.attn_out(out.transpose(1, 2).flatten(2)))

    def _feed_forward(self, x: torch.Tensor, modulation: list[torch.Tensor]) -> torch.Tensor:
        """Add the gated MLP branch."""
        shift, scale, gate = modulation
        return torch.addcmul(x, gate, self._drop(self.mlp(self.norm2(x, shift, scale))))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        """Residual dropout, training only."""
        return F.dropout(x, self.dropout, self.training)


class FinalLayer(nn.Module):
    """Norm, modulation and head."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm_final = ModulatedNorm(config.hidden_size)
        self.modulation = Modulation(config, 2)
        if not config.tie_word_embeddings:
            self.weight = nn.Parameter(torch.zeros(config.vocab_size, config.hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        """Hidden states as the head wants them, same shape as x."""
        return cast(torch.Tensor, self.norm_final(x, *self.modulation(condition)))


class DiTForMaskedLM(PreTrainedModel):
    """The MDLM network. Logits are raw: neither the zero mask probability nor the carry-over rule is applied."""

    config_class = DiTConfig
    base_model_prefix = "dit"
    _no_split_modules = ["DiTBlock"]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.vocab_embed = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.time_conditioning:
            self.sigma_map = TimeEmbedding(config.cond_dim)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.num_hidden_layers))
        self.output_layer = FinalLayer(config)
        self._rope: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as published: PyTorch's defaults; modulation and head zero, so blocks start as the identity."""
        if isinstance(module, nn.Embedding):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, nn.Linear):
            module.reset_parameters()
        elif isinstance(module, ModulatedNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, Modulation | FinalLayer):
            for parameter in module.parameters(recurse=False):
                nn.init.zeros_(parameter)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding (V, D)."""
        return self.vocab_embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.vocab_embed = cast(nn.Embedding, value)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (…, V) of hidden states (…, D)."""
        tied = self.config.tie_word_embeddings
        weight = self.vocab_embed.weight if tied else self.output_layer.weight
        bias = self.output_layer.bias
        if goes_by_rows(hidden) and hidden.ndim == 2:  # a few positions: half the time of the product the other way
            return torch.addmm(bias[:, None], weight, hidden.t()).t()
        return F.linear(hidden, weight, bias)

    def hidden(self, input_ids: torch.Tensor, sigma: torch.Tensor | None = None) -> torch.Tensor:
        """What the head reads, at every position (B, L, D), from tokens (B, L) and sigma (B,) where conditioned."""
        condition = self.condition(sigma)
        x, rope = self._enter(input_ids)
        for block in self.blocks:
            x = block(x, rope, condition)
        return cast(torch.Tensor, self.output_layer(x, condition))

    def hidden_at(
        self, input_ids: torch.Tensor, columns: torch.Tensor, sigma: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the head reads at `columns` (B, M) only: (B, M, D), equal to `hidden` up to rounding."""
        condition = self.condition(sigma)
        return self.last_hidden_at(self.before_last(input_ids, condition), columns, condition)

    def before_last(self, input_ids: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        """What the last block reads, at every position (B, L, D); condition as `condition` gives it."""
        x, rope = self._enter(input_ids)
        for block in list(self.blocks)[:-1]:
            x = block(x, rope, condition)
        return x

    def last_hidden_at(self, x: torch.Tensor, columns: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        """Last block and final layer at `columns` (B, M) only, from x (B, L, D): (B, M, D)."""
        rope = self._rotary(x.shape[1], x.device)
        x = cast(DiTBlock, self.blocks[-1]).forward_at(x, rope, condition, columns)
        return cast(torch.Tensor, self.output_layer(x, condition))

    def forward(
        self,
        input_ids: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[torch.Tensor]:
        """Logits (B, L, V) from tokens (B, L); `timesteps` is sigma (B,), needed with time conditioning only.

        `attention_mask` is accepted for the interface's sake and must not hide anything: the network was trained
        without one.
        """
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("this network attends everywhere; it takes no padding mask")
        logits = self.head(self.hidden(input_ids, timesteps))
        return (logits,) if return_dict is False else MaskedLMOutput(logits=logits)

    def _enter(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Embed tokens, look up rotary tables."""
        x = self.vocab_embed(input_ids)
        return x, self._rotary(input_ids.shape[1], x.device)

    def condition(self, sigma: torch.Tensor | None) -> torch.Tensor | None:
        """Embed time: (B, 1, cond_dim), or None where the network does not see it."""
        if not self.config.time_conditioning:
            return None
        if sigma is None:
            raise ValueError("this network is conditioned on time; give it timesteps")
        return cast(torch.Tensor, self.sigma_map(sigma))

    def _rotary(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        # Kept outside the module's buffers: transformers 5 builds modules on the meta device, where a
        # non-persistent buffer would come back uninitialised.
        key = (length, device)
        if key not in self._rope:
            head_dim = self.config.hidden_size // self.config.num_attention_heads
            with torch.inference_mode(False):  # an inference tensor could not take part in training later
                self._rope[key] = rotary_table(length, head_dim, device)
        return self._rope[key]


AutoConfig.register(DiTConfig.model_type, DiTConfig, exist_ok=True)
AutoModelForMaskedLM.register(DiTConfig, DiTForMaskedLM, exist_ok=True)
