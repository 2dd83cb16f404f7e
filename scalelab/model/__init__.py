"""Parallel streams on any causal language model of transformers.

Importing this registers the model types that end in ``_parscale``, such as ``qwen2_parscale``, the
type of the released checkpoints, with transformers' Auto classes.
"""

import transformers

from scalelab.model.add import add_streams
from scalelab.model.classes import FAMILIES, lm_class, register_type

for _name in FAMILIES:
    lm_class(getattr(transformers, _name))

__all__ = ["FAMILIES", "add_streams", "lm_class", "register_type"]
