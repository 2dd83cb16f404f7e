"""Numerical settings: determinism and the precision of fp32 products."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Fp32Precision = Literal["highest", "high"]
FP32_PRECISIONS: tuple[Fp32Precision, ...] = ("highest", "high")


@dataclass(frozen=True)
class Numerics:
    """Numerical settings that may differ between two runs of the same config.

    Attributes:
        deterministic: On CUDA, sum in a fixed order, so that equal runs have bit-identical losses; slower.
        fp32_precision: "highest" multiplies fp32 matrices in fp32; "high" may use tensor cores (TF32), which use
            10 bits of each factor and are several times faster.
    """

    deterministic: bool = False
    fp32_precision: Fp32Precision = "highest"

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Apply the settings in the block.

        With `deterministic`, cuBLAS fails if this process has computed on CUDA before.
        """
        import torch  # here: reading a sweep's state must not import torch
        import torch.utils.deterministic

        fills: Any = torch.utils.deterministic  # the module has a property
        before = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.get_float32_matmul_precision(),
            fills.fill_uninitialized_memory,
        )
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            fills.fill_uninitialized_memory = False  # a slow debugging aid
        torch.set_float32_matmul_precision(self.fp32_precision)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.set_float32_matmul_precision(before[2])
            fills.fill_uninitialized_memory = before[3]
