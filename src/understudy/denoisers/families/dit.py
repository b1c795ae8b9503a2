"""Models that `understudy train` writes."""

import torch

from understudy.denoisers.dit import DiTConfig, DiTForMaskedLM
from understudy.denoisers.families.family import ModelSource
from understudy.denoisers.model_files import check_fit, read_weights
from understudy.denoisers.network import DiTDenoiser
from understudy.errors import ModelError, SettingError, one_line


class TrainedHere:
    """The DiT of this project."""

    title = "Understudy's DiT"

    def recognises(self, source: ModelSource) -> bool:
        """By its `model_type`."""
        return source.model_type == DiTConfig.model_type

    def stated(self, source: ModelSource) -> dict[str, int | None]:
        """All of it; nothing where the configuration is damaged, which `load` says."""
        try:
            config = DiTConfig.from_dict(dict(source.config))
        except (SettingError, TypeError, ValueError):
            return {}
        return {"mask_id": config.mask_token_id, "vocab_size": config.vocab_size, "begin_id": config.bos_token_id}

    def load(self, source: ModelSource) -> DiTDenoiser:
        """Read the network strictly."""
        try:
            config = DiTConfig.from_dict(dict(source.config))
        except (SettingError, TypeError, ValueError) as error:
            raise ModelError(
                f"{source.folder / 'config.json'} describes no network that can be: {one_line(error)}"
            ) from error
        return dit_denoiser(source, config, read_weights(source.folder))


def dit_denoiser(
    source: ModelSource, config: DiTConfig, weights: dict[str, torch.Tensor], description: str = ""
) -> DiTDenoiser:
    """Put weights into a DiT of this configuration. Raises ModelError unless they fit exactly."""
    # Without memory or first values of its own: it takes over the tensors of the file.
    with torch.device("meta"):
        network = DiTForMaskedLM(config)
    expected = network.state_dict()
    shared = expected.keys() & weights.keys()
    differing = {name for name in shared if expected[name].shape != weights[name].shape}
    check_fit(source.folder, expected.keys() - shared, weights.keys() - shared, differing)
    network.load_state_dict({name: weight.to(source.dtype) for name, weight in weights.items()}, assign=True)
    return DiTDenoiser(network.to(source.device), description=description)
