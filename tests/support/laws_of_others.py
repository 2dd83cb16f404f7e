"""Published laws, written out by hand, with true parameters."""

import math

TRUTHS = {
    "peaked": (0.7, 1e7, 0.4, 0.05, 0.25),
    "joint-power": (0.7, 1e7, 0.3, 0.3, 1e9, 0.35),
    "farseer": (0.2, -0.1, 0.05, 4.6, -0.8, -0.15, -1.2, -0.15, 0.1),
    "compute": (1.6, 1e17, 0.1),
    "params": (1.5, 1e7, 0.3),
    "tokens": (1.5, 1e8, 0.3),
    "broken-compute": (1.5, 1e17, 0.1, 0.15, 3e20, 0.4),
    "broken-params": (1.5, 1e7, 0.2, 0.2, 1e9, 0.4),
    "broken-tokens": (1.5, 1e8, 0.2, 0.2, 1e10, 0.4),
    "data-constrained": (1.8, 2e7, 0.35, 1e9, 0.37, 15.0, 6.0),
    "experts": (1.5, 1e7, 0.3, 0.08, -0.01),
    "experts-started": (1.5, 1e7, 0.3, 2.5, 0.12),
    "loops": (1.5, 1e7, 0.25, 0.45, 0.3),
    "lr-batch": (1.7, 1e7, 0.3, 5e8, 0.3, 2e-3, -0.7, 0.3, 5e5, 0.05, 0.5, 0.02, 0.01, 0.3),
}


def _broken(x, A, c0, c1, d, f):
    return (A / x) ** c0 * (1 + (x / d) ** (1 / f)) ** (-c1 * f)


def _shifted(n, v, r, g):
    return v + r * ((n / 1e9) ** g - 1) / g


def _muennighoff(n, d, u, E, A, alpha, B, beta, R_D, R_N):
    """Return the law of arXiv 2305.16264, with its coefficients A^α and B^β, and G for the best size."""
    a, b = A**alpha, B**beta
    G = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    best = G ** ((alpha + beta) / alpha) * u ** (beta / alpha)
    U_N, U_D = min(n, best), min(d, u)
    N = U_N + U_N * R_N * (1 - math.exp(-(n / U_N - 1) / R_N))
    D = U_D + U_D * R_D * (1 - math.exp(-(d / U_D - 1) / R_D))
    return E + a / N**alpha + b / D**beta


def _tuned(n, d, o, E, A, alpha, B, beta, lr_v, lr_N, lr_D, B_v, B_N, B_D, u, w, m):
    x = math.log(o["lr"] / (lr_v * (n / 1e9) ** lr_N * (d / 1e11) ** lr_D))
    y = math.log(o["B"] / (B_v * (n / 1e9) ** B_N * (d / 1e11) ** B_D))
    level = E + (A / n) ** alpha + (B / d) ** beta
    return level * math.exp(u * x * x + w * y * y + m * math.sqrt(u * w) * x * y)


_T = TRUTHS

WRITTEN = {
    "peaked": (
        _T["peaked"],
        lambda n, p, d: 0.7 + (1e7 / (n * p ** (0.4 - 0.05 * math.log(p)))) ** 0.25,
    ),
    "joint-power": (
        _T["joint-power"],
        lambda n, p, d: 0.7 + (1e7 / (n * p**0.3)) ** 0.3 + (1e9 / d) ** 0.35,
    ),
    "farseer": (
        _T["farseer"],
        lambda n, p, d: (
            math.exp(_shifted(n, *_T["farseer"][:3]))
            + math.exp(_shifted(n, *_T["farseer"][3:6])) * d ** -math.exp(_shifted(n, *_T["farseer"][6:]))
        ),
    ),
    "compute": (_T["compute"], lambda n, p, d, o: 1.6 + (1e17 / o["C"]) ** 0.1),
    "params": (_T["params"], lambda n, p, d: 1.5 + (1e7 / n) ** 0.3),
    "tokens": (_T["tokens"], lambda n, p, d: 1.5 + (1e8 / d) ** 0.3),
    "broken-compute": (_T["broken-compute"], lambda n, p, d, o: 1.5 + _broken(o["C"], *_T["broken-compute"][1:])),
    "broken-params": (_T["broken-params"], lambda n, p, d: 1.5 + _broken(n, *_T["broken-params"][1:])),
    "broken-tokens": (_T["broken-tokens"], lambda n, p, d: 1.5 + _broken(d, *_T["broken-tokens"][1:])),
    "data-constrained": (
        _T["data-constrained"],
        lambda n, p, d, o: _muennighoff(n, d, o["U"], *_T["data-constrained"]),
    ),
    "experts": (
        _T["experts"],
        lambda n, p, d, o: 1.5 + (1e7 / n) ** 0.3 * o["X"] ** -(0.08 - 0.01 * math.log(n / 1e9)),
    ),
    "experts-started": (
        _T["experts-started"],
        lambda n, p, d, o: 1.5 + (1e7 / n) ** 0.3 * ((o["X"] - 1 + 2.5) / 2.5) ** -0.12,
    ),
    "loops": (_T["loops"], lambda n, p, d, o: 1.5 + (1e7 / (n * p**0.25 * o["R"] ** 0.45)) ** 0.3),
    "lr-batch": (_T["lr-batch"], lambda n, p, d, o: _tuned(n, d, o, *_T["lr-batch"])),
}
