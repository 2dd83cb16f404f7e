"""Count of the numbers that a forward pass reads from parameters."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class WeightsRead(TorchDispatchMode):
    """Counter of numbers read from parameters, except prefixes; views read nothing, look-ups only their rows.

    What is expanded is read once.
    """

    def __init__(self, model):
        super().__init__()
        self.names = {p.untyped_storage().data_ptr(): name for name, p in model.named_parameters()}
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not any(self._name(x) for x in tree_leaves(out)):
            for x in tree_leaves((args, kwargs)):
                if "prefix" not in self._name(x, "prefix"):
                    looked_up = func is torch.ops.aten.embedding.default
                    held = x.untyped_storage().nbytes() // x.element_size()
                    self.count += args[1].numel() * x.shape[-1] if looked_up else min(x.numel(), held)
        return out

    def _name(self, value, otherwise=""):
        return self.names.get(value.untyped_storage().data_ptr(), otherwise) if torch.is_tensor(value) else otherwise
