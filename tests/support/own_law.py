"""A user-defined law, as the text of its file."""

OWN = """
import numpy as np
from scalelab.laws import Law, Parameter

class Saturating(Law):
    name = "saturating"
    variables = ("N", "P")
    parameters = (
        Parameter("E", "nats/token", (0.05, 0.98), (1e-8, 2.0), relative_to="loss"),
        Parameter("A", "parameters", (1e-8, 1e2), relative_to="N"),
        Parameter("alpha", "1", (0.05, 1.0)),
        Parameter("s", "1", (0.01, 0.5)),
    )

    def loss(self, params, at):
        E, A, alpha, s = (params[..., i, None] for i in range(4))
        return E + (A / at.N) ** alpha * (1 - s * (1 - 1 / at.P))

ready = Saturating()
nothing = 5
"""
