import math
import re

import numpy as np
import pytest

from scalelab.errors import UsageError
from scalelab.laws import LAWS, Law, Parameter, Points, get_law
from scalelab.units import format_number
from tests.support.laws_of_others import WRITTEN as OTHERS
from tests.support.own_law import OWN

AT = Points(
    N=np.array([5e8, 1e9, 4e9, 1e5]),
    P=np.array([1.0, 2.0, 8.0, 4.0]),
    D=np.array([1e9, 4e10, 1e12, 2e6]),
    others={
        "C": np.array([3e18, 2e20, 2e22, 1e12]),
        "U": np.array([1e9, 1e10, 2e10, 5e5]),
        "X": np.array([1.0, 8.0, 64.0, 2.0]),
        "R": np.array([1.0, 4.0, 2.0, 8.0]),
        "lr": np.array([1e-3, 3e-3, 5e-4, 1e-2]),
        "B": np.array([2e5, 5e5, 4e6, 1e4]),
    },
)
E, A, ALPHA, B, BETA = 0.69, 1.1e7, 0.19, 3e8, 0.28
# Each law once more, as its source writes it, with parameters in the law's order.
WRITTEN = {
    "parallel": ((E, A, 0.39, ALPHA), lambda n, p, d: E + (A / (n * (0.39 * math.log(p) + 1))) ** ALPHA),
    "power": ((E, A, 0.3, ALPHA), lambda n, p, d: E + (A / (n * p**0.3)) ** ALPHA),
    "diversity": ((E, A, 0.9, ALPHA), lambda n, p, d: E + (A / n) ** ALPHA * (1 + (p - 1) * 0.9) / p),
    "additive": ((E, A, ALPHA, 0.07, 0.5), lambda n, p, d: E + (A / n) ** ALPHA + 0.07 * p**-0.5),
    "chinchilla": ((E, A, ALPHA, B, BETA), lambda n, p, d: E + (A / n) ** ALPHA + (B / d) ** BETA),
    "joint": (
        (E, A, 0.39, ALPHA, B, BETA),
        lambda n, p, d: E + (A / (n * (0.39 * math.log(p) + 1))) ** ALPHA + (B / d) ** BETA,
    ),
    "joint-additive": (
        (E, A, ALPHA, B, BETA, 0.07, 0.5),
        lambda n, p, d: E + (A / n) ** ALPHA + (B / d) ** BETA + 0.07 * p**-0.5,
    ),
} | OTHERS


def _point(i: int) -> tuple[tuple[float, float, float], dict[str, float]]:
    return (AT.N[i], AT.P[i], AT.D[i]), {name: values[i] for name, values in AT.others.items()}


def _as_written(written, i: int) -> float:
    known, others = _point(i)
    return written(*known) if written.__code__.co_argcount == 3 else written(*known, others)


def test_every_law_is_checked_here():
    assert WRITTEN.keys() == LAWS.keys()
    assert all(law.source and law.latex.startswith("L(") and get_law(law) is law for law in LAWS.values())


@pytest.mark.parametrize("name", LAWS)
def test_value_is_the_equation(name):
    params, written = WRITTEN[name]
    expected = [_as_written(written, i) for i in range(4)]
    assert LAWS[name].loss(np.array(params), AT) == pytest.approx(expected, rel=1e-12 if name in OTHERS else 1e-14)


def test_hoffmanns_constants_give_their_losses():
    """E 1.69, A 406.4, α 0.34, B 410.7, β 0.28 (arXiv 2203.15556, appendix D.3); our A is theirs to 1/α."""
    chinchilla = np.array([1.69, 406.4 ** (1 / 0.34), 0.34, 410.7 ** (1 / 0.28), 0.28])
    loss = LAWS["chinchilla"].loss(chinchilla, Points(np.array([70e9]), np.array([1.0]), np.array([1.4e12])))
    assert loss == pytest.approx([1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28], rel=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_derivatives_by_central_differences(name):
    """Against the law's own values, which the test above holds to the equation; also the numeric default."""
    law, params = LAWS[name], np.array(WRITTEN[name][0])
    loss, jacobian = law.evaluate(params, AT)
    assert loss == pytest.approx(law.loss(params, AT), rel=1e-15)
    for i, value in enumerate(params):
        step = np.zeros_like(params)
        step[i] = 1e-6 * abs(value)
        numeric = (law.loss(params + step, AT) - law.loss(params - step, AT)) / (2e-6 * abs(value))
        scale = np.abs(jacobian[:, i]).max()
        assert jacobian[:, i] == pytest.approx(numeric, rel=1e-5, abs=1e-7 * scale)
    numeric = Law.evaluate(law, params, AT)[1]
    assert numeric == pytest.approx(jacobian, rel=1e-6, abs=1e-9 * np.abs(jacobian).max())


@pytest.mark.parametrize("name", LAWS)
def test_batches_of_parameters_broadcast(name):
    law = LAWS[name]
    batch = np.array([WRITTEN[name][0], WRITTEN[name][0]]) * [[1.0], [1.01]]
    k = len(law.parameters)
    loss, jacobian = law.evaluate(batch, AT)
    assert (loss.shape, jacobian.shape) == ((2, 4), (2, 4, k))
    assert loss[1] == pytest.approx(law.loss(batch[1], AT), rel=1e-15)
    assert jacobian[1] == pytest.approx(law.evaluate(batch[1], AT)[1], rel=1e-13)
    each = Points(*(v[:2, None] for v in (AT.N, AT.P, AT.D)), others={k: v[:2, None] for k, v in AT.others.items()})
    assert law.loss(batch, each)[:, 0] == pytest.approx([loss[0, 0], loss[1, 1]], rel=1e-15)


@pytest.mark.parametrize("name", [name for name in LAWS if name != "data-constrained"])  # which names a function
def test_the_printed_equation_is_the_law(name):
    """Read back as arithmetic, the line a person sees gives the law's losses."""
    law, (params, _) = LAWS[name], WRITTEN[name]
    text = law.equation(dict(zip(law.names, params, strict=True)), digits=12)
    text = text.removeprefix("L = ").replace("·", "*").replace("^", "**").replace("ln(", "log(")
    code = re.sub(r"ln ([\w.]+(?:e-?\d+)?)", r"log(\1)", text)
    for i, expected in enumerate(law.loss(np.array(params), AT)):
        (n, p, d), others = _point(i)
        names = {"N": n, "P": p, "D": d, **others, "log": math.log, "exp": math.exp}
        assert eval(code, {"__builtins__": {}}, names) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("value", [-0.5, -1e-7])
def test_negative_parameters_can_be_read_back(value):
    for name, parameter in (("parallel", "k"), ("power", "gamma"), ("diversity", "rho"), ("additive", "B")):
        law = LAWS[name]
        values = dict(zip(law.names, WRITTEN[name][0], strict=True)) | {parameter: value}
        code = re.sub(r"ln (\w)", r"log(\1)", law.equation(values, 9)[4:].replace("·", "*").replace("^", "**"))
        at = Points(np.array([1e9]), np.array([2.0]))
        expected = law.loss(np.array([values[n] for n in law.names]), at)[0]
        assert format_number(value, 9) in law.equation(values, 9)
        assert eval(code, {"__builtins__": {}}, {"N": 1e9, "P": 2.0, "log": math.log}) == pytest.approx(expected)


def test_outside_its_domain_a_law_is_nan_not_a_number_from_nowhere():
    loss = LAWS["parallel"].loss(np.array([0.5, 1e7, -0.6, 0.2]), AT)
    assert np.isnan(loss[2])  # 1 - 0.6 ln 8 < 0
    assert np.isfinite(loss[0])
    assert np.isnan(LAWS["diversity"].loss(np.array([0.5, 1e7, -0.2, 0.2]), AT)[2])  # 1 - 7 · 0.2 < 0


@pytest.mark.parametrize(
    "wrong",
    [{"start": (0.0, 1.0)}, {"start": (2.0, 1.0)}, {"bounds": (-1.0, 1.0)}, {"relative_to": "Q"}, {"needs": "Q"}],
)
def test_a_parameter_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="parameter a: "):
        Parameter(**({"name": "a", "unit": "1", "start": (0.1, 1.0)} | wrong))


def test_a_law_of_ones_own_comes_from_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    for name in ("Saturating", "ready"):
        law = get_law(f"{tmp_path}/mine.py:{name}")
        assert law.names == ("E", "A", "alpha", "s")
        params = np.array([0.7, 1e7, 0.2, 0.1])
        assert law.evaluate(params, AT)[1].shape == (4, 4)
        assert law.evaluate(params, AT)[1][:, 3] == pytest.approx(-((1e7 / AT.N) ** 0.2) * (1 - 1 / AT.P), rel=1e-7)


class Wrong(Law):
    name = "wrong"
    parameters = (Parameter("a", "1", (1.0, 2.0)),)


class Flat(Wrong):
    def loss(self, params, at):
        return params[..., 0]


class Clash(Flat):
    name = "power"


class Complex(Flat):
    def loss(self, params, at):
        return params[..., 0, None] * np.ones(np.shape(at.N)) * 1j


class Listed(Flat):
    parameters = 5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Clash(), "`name` 'power' is taken by a built-in law"),
        (Complex(), r"loss\(\) must return floats, not complex128"),
        (Listed(), "`parameters` must be a tuple"),
        ("parralel", "law='parralel': did you mean parallel[?] choose one of parallel, power"),
        ("nowhere.py:law", "law nowhere.py:law: no such file"),
        ("{}/mine.py:absent", "does not define absent"),
        ("{}/mine.py:nothing", "must be a scalelab.laws.Law, not int"),
        ("{}/broken.py:law", "importing .*broken.py fails: SyntaxError"),
        (Wrong(), r"loss\(\) fails: NotImplementedError"),
        (Flat(), r"must have shape \(2, 3\), not \(2,\)"),
    ],
)
def test_what_is_no_law_is_said(tmp_path, spec, message):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("law = (")
    with pytest.raises(UsageError, match=message):
        get_law(spec.format(tmp_path) if isinstance(spec, str) else spec)
