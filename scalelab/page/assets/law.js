// Laws of scalelab.laws in JavaScript: losses of a fit with intervals, and plain models of equal loss.
// A law is data: its terms by kind, each with the indices of its parameters (scalelab/page/laws.py).
(function () {
  "use strict";

  const scalelab = (window.scalelab = window.scalelab || {});
  const LN_N_UNIT = Math.log(1e9); // N and D in logarithms are relative to these, as in scalelab.laws.forms
  const LN_D_UNIT = Math.log(1e11);
  const REACH = 150; // search range in ln N on each side, as in scalelab.fit.derived
  const STEPS = 52; // of a bisection of that range, to 1e-13

  const { exp, log, expm1, log1p, sqrt, min, max, abs } = Math;
  const softplus = (x) => max(0, x) + log1p(exp(-abs(x))); // ln(1 + eˣ)

  // Terms: functions of their parameter values v, the logarithms `ln` of the variables, the point and the variable.
  const TERMS = {
    Floor: (v) => v[0],
    Power: (v, ln, at, x) => exp(v[1] * (log(v[0]) - ln[x])),
    LogGain: (v, ln) => {
      const gain = v[1] * ln.P + 1;
      return gain > 0 ? exp(v[2] * (log(v[0]) - ln.N - log(gain))) : NaN;
    },
    PowerGain: (v, ln) => exp(v[2] * (log(v[0]) - ln.N - v[1] * ln.P)),
    PeakGain: (v, ln) => exp(v[3] * (log(v[0]) - ln.N - v[1] * ln.P + v[2] * ln.P ** 2)),
    ReuseGain: (v, ln) => exp(v[3] * (log(v[0]) - ln.N - v[1] * ln.P - v[2] * ln.R)),
    Diversity: (v, ln, at) => {
      const share = (1 + (at.P - 1) * v[1]) / at.P;
      return share > 0 ? exp(v[2] * (log(v[0]) - ln.N)) * share : NaN;
    },
    StreamPower: (v, ln) => v[0] * exp(-v[1] * ln.P),
    Broken: ([A, c0, c1, d, f], ln, at, x) =>
      exp(c0 * (log(A) - ln[x]) - c1 * f * softplus((ln[x] - log(d)) / f)),
    Farseer: (v, ln) => {
      const [s, b, a] = [0, 3, 6].map((i) => shifted(v[i], v[i + 1], v[i + 2], ln.N - LN_N_UNIT));
      return exp(s) + exp(b - exp(a) * ln.D);
    },
    Repeated: ([A, alpha, B, beta, RD, RN], ln) => {
      const best = log(A) + log(alpha / beta) / alpha + (beta / alpha) * (ln.U - log(B));
      const base = min(ln.N, best);
      const lnN = base + worth(ln.N - base, RN);
      const lnD = min(ln.U, ln.D) + worth(max(ln.D - ln.U, 0), RD);
      return exp(alpha * (log(A) - lnN)) + exp(beta * (log(B) - lnD));
    },
    Experts: ([A, alpha, g, h], ln) => exp(alpha * (log(A) - ln.N) - (g + h * (ln.N - LN_N_UNIT)) * ln.X),
    StartedExperts: ([A, alpha, S, g], ln) =>
      exp(alpha * (log(A) - ln.N) - g * log1p((exp(ln.X) - 1) / S)),
    TuningLaw: ([E, A, alpha, B, beta, lrV, lrN, lrD, bV, bN, bD, u, w, m], ln) => {
      const n = ln.N - LN_N_UNIT;
      const d = ln.D - LN_D_UNIT;
      const x = ln.lr - log(lrV) - lrN * n - lrD * d;
      const y = ln.B - log(bV) - bN * n - bD * d;
      const q = u * x * x + w * y * y + m * sqrt(u * w) * x * y;
      return (E + exp(alpha * (log(A) - ln.N)) + exp(beta * (log(B) - ln.D))) * exp(q);
    },
  };

  // v + r·(x^g − 1)/g at ln x, or v + r·ln x where g is 0.
  function shifted(v, r, g, x) {
    const gx = g * x;
    return v + r * (abs(gx) < 1e-4 ? x * (1 + gx / 2 + gx ** 2 / 6) : expm1(gx) / g);
  }

  // ln(1 + R·(1 − exp(−r/R))) for r = exp(excess) − 1.
  function worth(excess, R) {
    return log(1 - R * expm1(-expm1(min(excess, 300)) / R));
  }

  // Logarithms of the variables of a point.
  function logs(at) {
    const ln = {};
    for (const name of Object.keys(at)) ln[name] = log(at[name]);
    return ln;
  }

  const scratch = []; // values of the term at hand: an array for each would cost more than the terms

  function lossOf(law, params, at, ln) {
    let total = 0;
    for (const { kind, values, variable } of law.terms) {
      for (let i = 0; i < values.length; i++) scratch[i] = params[values[i]];
      total += TERMS[kind](scratch, ln, at, variable);
    }
    return total;
  }

  // Loss in nats per token of one set of parameters at one point, such as {N: 1e9, P: 4, D: 2e10}.
  function loss(law, params, at) {
    return lossOf(law, params, at, logs(at));
  }

  // Quantile as numpy computes it: linear, or the nearest draw if some are infinite. `sorted` is ascending.
  function quantile(sorted, q) {
    const n = sorted.length;
    if (Number.isFinite(sorted[0]) && Number.isFinite(sorted[n - 1])) {
      const place = q * (n - 1);
      const below = Math.floor(place);
      return sorted[below] + (place - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
    }
    const index = n * q - 1.5;
    const below = Math.floor(index);
    const chosen = index === below && abs(below % 2) === 1 ? below : below + 1;
    return sorted[min(max(chosen, 0), n - 1)];
  }

  // Value of a function of the parameters, with the 95 % interval of its draws; null ends without draws.
  function estimate(fit, of) {
    const draws = fit.draws.map(of).filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
    const ends = draws.length ? [quantile(draws, 0.025), quantile(draws, 0.975)] : [null, null];
    return { value: of(fit.params), low: ends[0], high: ends[1] };
  }

  // Loss of a fit at a point, with its interval.
  function evaluate(fit, at) {
    const ln = logs(at);
    return estimate(fit, (params) => lossOf(fit.law, params, at, ln));
  }

  // N of the plain model (P = 1) with the same loss, with its interval; Infinity if no plain model reaches it.
  function nEquivalent(fit, at) {
    const ln = logs(at);
    const plain = { ...at, P: 1 };
    const plainLn = { ...ln, P: 0 };
    const lossAt = (params, lnN) => {
      plainLn.N = lnN;
      plain.N = exp(lnN);
      return lossOf(fit.law, params, plain, plainLn);
    };
    return estimate(fit, (params) => {
      const wanted = lossOf(fit.law, params, at, ln);
      if (Number.isNaN(wanted)) return NaN;
      let [low, high] = [ln.N - REACH, ln.N + REACH];
      if (lossAt(params, high) > wanted) return Infinity;
      for (let i = 0; i < STEPS; i++) {
        const middle = (low + high) / 2;
        if (lossAt(params, middle) > wanted) low = middle;
        else high = middle;
      }
      return exp((low + high) / 2);
    });
  }

  scalelab.law = { loss, evaluate, nEquivalent, quantile };
})();
