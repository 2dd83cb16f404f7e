"""Messages that libraries log while they are imported, and that a user of the command line can do nothing about."""

import logging

# torchao 0.18 logs which of its CUDA libraries a torch for CPUs cannot load, and torch that torchao registers enums.
_LOGGERS = ("torchao", "torch.utils._pytree")


def quiet_imports() -> None:
    """Hide warnings of these libraries; call it before they are imported. Errors are still logged."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
