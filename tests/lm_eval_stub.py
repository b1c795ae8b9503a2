"""What of lm-eval our model uses, so that its tests run where lm-eval is not installed."""

import sys
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

HAS_LM_EVAL = find_spec("lm_eval") is not None
NAMES = ("lm_eval", "lm_eval.api", "lm_eval.api.model", "lm_eval.api.registry")


class LM:
    def __init__(self):
        self.cache_hook = SimpleNamespace(add_partial=lambda *_: None)


@contextmanager
def lm_eval_or_stub():
    """Let `lm_eval` be imported: the real one if there is one."""
    if HAS_LM_EVAL:
        yield
        return
    modules = {name: ModuleType(name) for name in NAMES}
    modules["lm_eval.api.model"].LM = LM
    modules["lm_eval.api.registry"].register_model = lambda _: lambda kind: kind
    sys.modules |= modules
    try:
        yield
    finally:
        for name in NAMES:
            del sys.modules[name]
