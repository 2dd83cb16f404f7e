"""Parallel streams for any causal language model of transformers.

Importing this package registers model types that end in ``_parscale`` with transformers, so that its Auto classes and
its server find them, and trainers of other libraries. One is ``qwen2_parscale``, the type of the released checkpoints.
It also makes the Trainer of transformers refuse to resume with another number of active streams.
"""

import transformers

from scalelab.model.adapters import lora_config
from scalelab.model.add import add_streams
from scalelab.model.classes import FAMILIES, initial_streams, lm_class, register_type
from scalelab.model.trainer_hook import add_to_trainers

for _name in FAMILIES:
    lm_class(getattr(transformers, _name))
add_to_trainers()

__all__ = ["FAMILIES", "add_streams", "initial_streams", "lm_class", "lora_config", "register_type"]
