"""Stand-ins for models that carry their code: what is said of LLaDA and Dream, in a few lines, on small networks.

They are written as for transformers 4, and need what 5 took away. Neither is anybody's code.
"""

import json

import torch
from safetensors.torch import save_file

from masked_lms import LETTERS, SPECIAL, letter_tokenizer
from understudy import load_denoiser

WIDTH, LONGEST, TAIL = 16, 24, 7
MASK, KNOWN = SPECIAL.index("<mask>"), len(SPECIAL) + len(LETTERS)

CONFIGURATION = """
from transformers import PretrainedConfig

class OddConfig(PretrainedConfig):
    model_type = "odd"

    def __init__(self, use_cache=False, **kwargs):
        super().__init__(use_cache=use_cache, **kwargs)
"""

# A trunk that is passed by (`forward` is called, not the module), a last norm, and a head inside.
LLADA = """
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from .configuration import OddConfig

torch.backends.cuda.enable_mem_efficient_sdp(False)

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.own, self.others = nn.Linear(width, width), nn.Linear(width, width, bias=False)

    def forward(self, x):
        return x + torch.tanh(self.own(x) + self.others(x.mean(1, keepdim=True)))

class Inner(nn.Module):
    def __init__(self, config):
        super().__init__()
        d = config.d_model
        self.tied = config.weight_tying
        parts = dict(wte=nn.Embedding(config.embedding_size, d, device="cpu"), ln_f=nn.LayerNorm(d))
        parts["blocks"] = nn.ModuleList(Block(d) for _ in range(config.n_layers))
        if not self.tied:
            parts["ff_out"] = nn.Linear(d, config.embedding_size, bias=False)
        self.transformer = nn.ModuleDict(parts)
        self.register_buffer("places", torch.sin(torch.arange(64.0))[:, None], persistent=False)

    def forward(self, ids):
        x = self.transformer.wte(ids) + self.places[: ids.shape[1]]
        for block in self.transformer.blocks:
            x = block(x)
        x = self.transformer.ln_f(x)
        return x @ self.transformer.wte.weight.T if self.tied else self.transformer.ff_out(x)

class Model(PreTrainedModel):
    config_class = OddConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = Inner(config)

    def forward(self, input_ids=None, attention_mask=None, use_cache=None):
        assert attention_mask is None
        cached = self.config.use_cache if use_cache is None else use_cache
        return CausalLMOutputWithPast(logits=self.model.forward(input_ids), past_key_values=() if cached else None)

    def get_output_embeddings(self):
        return self.model.transformer.wte if self.model.tied else self.model.transformer.ff_out
"""

# A trunk that gives an output object, rotary frequencies from a table of transformers 4, and a list of tied weights.
DREAM = """
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from .configuration import OddConfig

class Odd(PreTrainedModel):
    config_class = OddConfig
    base_model_prefix = "model"

    def _init_weights(self, module):
        pass

class Base(Odd):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mix = nn.ModuleList(
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(config.num_hidden_layers)
        )
        frequencies, self.scale = ROPE_INIT_FUNCTIONS["default"](config, None)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, use_cache=None):
        x = self.embed_tokens(input_ids)
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.frequencies
        x = x + self.scale * torch.cat([angles.cos(), angles.sin()], -1).to(x.dtype)
        for layer in self.mix:
            everything = attention_mask == "full"
            seen = x.mean(1, keepdim=True) if everything else x.cumsum(1)
            x = x + torch.tanh(layer(x + seen))
        return BaseModelOutput(last_hidden_state=x)

class Model(Odd):
    _tied_weights_keys = ["lm_head.weight"]

    def __init__(self, config):
        super().__init__(config)
        self.model = Base(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, attention_mask=None, use_cache=None):
        return MaskedLMOutput(logits=self.lm_head(self.model(input_ids, attention_mask)[0]))
"""

KINDS = {"llada": LLADA, "Dream": DREAM}


def remote_config(kind, *, layers, tail, tied):
    """`config.json` of a stand-in, with the names that each kind uses."""
    shared = {
        "model_type": kind,
        "auto_map": {"AutoConfig": "configuration.OddConfig", "AutoModel": "modeling.Model"},
        "mask_token_id": MASK,
        "eos_token_id": SPECIAL.index("</s>"),
        "use_cache": True,
        "dtype": "bfloat16",
    }
    sizes = {
        "llada": {
            "d_model": WIDTH,
            "n_layers": layers,
            "embedding_size": KNOWN + tail,
            "max_sequence_length": LONGEST,
            "weight_tying": tied,
        },
        "Dream": {
            "hidden_size": WIDTH,
            "num_hidden_layers": layers,
            "num_attention_heads": 1,
            "vocab_size": KNOWN + tail,
            "max_position_embeddings": LONGEST,
            "rope_theta": 10000.0,
            "tie_word_embeddings": tied,
        },
    }
    return shared | sizes[kind]


def weight_shapes(config):
    """Names and shapes of a stand-in's parameters, as in its file: a tied head is not in it."""
    if config["model_type"] == "llada":
        head = (config["embedding_size"], WIDTH)
        shapes = {"wte.weight": head, "ln_f.weight": (WIDTH,), "ln_f.bias": (WIDTH,)}
        for number in range(config["n_layers"]):
            block = {"own.weight": (WIDTH, WIDTH), "own.bias": (WIDTH,), "others.weight": (WIDTH, WIDTH)}
            shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
        shapes |= {} if config["weight_tying"] else {"ff_out.weight": head}
        return {f"model.transformer.{name}": shape for name, shape in shapes.items()}
    head = (config["vocab_size"], WIDTH)
    shapes = {"model.embed_tokens.weight": head}
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"model.mix.{number}.weight": (WIDTH, WIDTH), f"model.mix.{number}.bias": (WIDTH,)}
    return shapes | ({} if config["tie_word_embeddings"] else {"lm_head.weight": head})


def save_remote(folder, kind, *, layers=2, tail=TAIL, tied=False, seed=0, tokenizer=None, code=None, **overrides):
    """Write a model folder, its code in it; give the weights. Large enough for predictions to differ."""
    folder.mkdir(exist_ok=True)
    config = remote_config(kind, layers=layers, tail=tail, tied=tied) | overrides
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration.py").write_text(CONFIGURATION)
    (folder / "modeling.py").write_text(KINDS[kind] if code is None else code)
    (tokenizer or letter_tokenizer()).save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) * 0.7 for name, shape in weight_shapes(config).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return weights


def load_remote(folder, **options):
    return load_denoiser(folder, trust_remote_code=True, **options)


def plain_logits(kind, weights, xt, *, tied=False):
    """The formulas of the stand-ins, in float32: a position's logits stand at the one before it in Dream."""
    table = weights["model.transformer.wte.weight" if kind == "llada" else "model.embed_tokens.weight"]
    x, place = table[xt], torch.arange(float(xt.shape[1]))[:, None]
    if kind == "llada":
        w = {name.removeprefix("model.transformer."): weight for name, weight in weights.items()}
        x = x + place.sin()
        for number in range(sum(name.endswith("own.weight") for name in w)):
            own = x @ w[f"blocks.{number}.own.weight"].T + w[f"blocks.{number}.own.bias"]
            x = x + torch.tanh(own + x.mean(1, keepdim=True) @ w[f"blocks.{number}.others.weight"].T)
        x = torch.nn.functional.layer_norm(x, (WIDTH,), w["ln_f.weight"], w["ln_f.bias"])
        return (x @ (table if tied else w["ff_out.weight"]).T)[..., :KNOWN]
    angles = place / 10000.0 ** (torch.arange(0, WIDTH, 2) / WIDTH)
    x = x + torch.cat([angles.cos(), angles.sin()], -1)
    for number in range(sum(name.startswith("model.mix") for name in weights) // 2):
        mixed = x + x.mean(1, keepdim=True)
        x = x + torch.tanh(mixed @ weights[f"model.mix.{number}.weight"].T + weights[f"model.mix.{number}.bias"])
    logits = x @ (table if tied else weights["lm_head.weight"]).T
    return torch.cat([logits[:, :1], logits[:, :-1]], 1)[..., :KNOWN]
