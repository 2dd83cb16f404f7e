// The roofline of scalelab.cost in JavaScript, for dense decoders with streams (scalelab/cost/roofline.py explains it).
// Devices, formats and constants are data from Python (scalelab/page/tables.py).
(function () {
  "use strict";

  const scalelab = (window.scalelab = window.scalelab || {});
  const { min, max, log, floor } = Math;
  const STEPS = 60; // of the bisection for a width
  const orElse = (value, other) => (value === null || value === undefined ? other : value);

  // --- Devices, formats and rates (scalelab/cost/rates.py) ---

  // A device of the tables, `parallel` of them sharing every matrix.
  function device(tables, name, parallel = 1) {
    const hardware = tables.devices[name];
    return { ...hardware, kindOf: tables.classes[hardware.kind], parallel, wider: tables.wider, ...tables.constants };
  }

  // Storage of weights and KV cache, and the precision of matrix products; null follows from the weights.
  function precision(tables, weights, kv = null, compute = null) {
    const format = tables.formats[weights];
    const usual = weights === "fp32" ? "fp32" : "bf16";
    return {
      format,
      kvBits: tables.kv_bits[kv || usual],
      arithmetic: compute || usual,
      rowCosts: tables.row_costs[format.kernels],
      kernelFlops: tables.kernel_flops[format.kernels],
    };
  }

  function units(on, name) {
    return on.wider[name].find((each) => each in on.flops_per_s);
  }

  function launchTimes(on) {
    const kind = on.kindOf;
    if (!on.kind) {
      const eager = orElse(on.launch_s, 0);
      if (on.graph_launch_s === null) return [eager, 0, 0];
      return [on.graph_launch_s, eager, kind.runtime === "graphs" ? 0 : eager];
    }
    const given = orElse(on.graph_launch_s, on.launch_s);
    const gap = orElse(given, orElse(kind.gaps[kind.runtime], kind.gap_s));
    if (!kind.asynchronous) return [gap, 0, 0];
    if (kind.runtime === "eager") {
      const host = orElse(on.launch_s, on.eager_launch_s);
      return [gap, host, host];
    }
    return [gap, on.prefill_launch_s, 0];
  }

  // Achieved rates of a device, and bytes per number.
  function findRates(on, precise) {
    const { parallel: t, kindOf: kind } = on;
    const stored = precise.format;
    const wide = precise.arithmetic === "fp32" || precise.arithmetic === "tf32";
    const peak = (name) => on.flops_per_s[units(on, name)];
    const narrow = ["fp8", "int8", "int4", "fp4"].includes(units(on, precise.arithmetic));
    const flops = narrow && kind.narrow_flops !== null ? kind.narrow_flops : kind.flops;
    const attention = orElse(on.attention_flops_per_s, peak(wide ? precise.arithmetic : "bf16"));
    const [launch, host, stepHost] = launchTimes(on);
    return {
      matrixFlops: t * peak(precise.arithmetic) * flops * (on.kind ? precise.kernelFlops : 1),
      attentionFlops: t * attention * kind.flops,
      bytes: t * on.bytes_per_s * kind.memory,
      vectorBytes: orElse(on.vector_bytes_per_s, on.bytes_per_s) * kind.memory,
      vectorFlops: orElse(on.vector_flops_per_s, peak(precise.arithmetic)) * kind.flops,
      launch,
      host,
      stepHost,
      weight: stored.matrix / 8,
      embedding: stored.embedding / 8,
      tied: stored.tied / 8,
      kv: precise.kvBits / 8,
      activation: wide ? 4 : 2,
      rowShares: on.row_shares,
      rowCosts: on.kind ? precise.rowCosts : [],
      devices: t,
      link: on.link_efficiency * orElse(on.link_bytes_per_s, on.default_link_bytes_per_s),
      reduce: on.reduce_s,
    };
  }

  // Values of (rows, value) pairs, linear in ln rows, with the nearest value outside; 1 without pairs.
  function between(pairs, rows) {
    let before = null;
    for (const [at, value] of pairs) {
      if (rows <= at) {
        if (before === null) return value;
        return before[1] + (log(rows / before[0]) / log(at / before[0])) * (value - before[1]);
      }
      before = [at, value];
    }
    return before ? before[1] : 1;
  }

  function seconds(rates, kernel) {
    const { flops, bytes, kind, times } = kernel;
    let once;
    if (kind === "vector") once = max(flops / rates.vectorFlops, bytes / rates.vectorBytes);
    else if (kind === "attention") once = max(flops / rates.attentionFlops, bytes / rates.bytes);
    else if (kind === "reduce") once = bytes / rates.link + rates.reduce;
    else {
      const read = (bytes / rates.bytes) * between(rates.rowCosts, kernel.rows);
      once = max(flops / rates.matrixFlops, read) / between(rates.rowShares, kernel.rows);
    }
    return times * (once + rates.launch);
  }

  function passSeconds(rates, list, hostPerKernel) {
    let total = 0;
    let starts = 0;
    for (const kernel of list) {
      total += seconds(rates, kernel);
      starts += kernel.times;
    }
    return max(total, starts * hostPerKernel);
  }

  // --- Kernels of a pass (scalelab/cost/kernels.py) ---

  const vector = (flops, bytes, times = 1) => ({ flops, bytes, times, kind: "vector" });

  function matrix(tokens, inputs, outputs, rates, stored, times = 1) {
    const bytes = inputs * outputs * stored + tokens * (inputs + outputs) * rates.activation;
    return { flops: 2 * tokens * inputs * outputs, bytes, times, kind: "matrix", rows: tokens };
  }

  // Copies of the cache over all devices: KV heads may be shared.
  const cacheCopies = (model, rates) => (rates.devices === 1 ? 1 : max(1, rates.devices / model.kvHeads));

  function attention(model, batch, tokens, pairs, read, rates, times) {
    const rows = model.P * batch;
    const { queries, kvWidth, prefix } = model;
    const flops = 4 * rows * (queries * pairs + queries * tokens * prefix);
    const moved = 2 * rows * tokens * queries * rates.activation + rows * prefix * kvWidth * rates.kv;
    const bytes = moved + rows * read * kvWidth * cacheCopies(model, rates) * rates.kv;
    return { flops, bytes, times, kind: "attention" };
  }

  // Kernels of one pass over `tokens` new tokens of each of `batch` sequences after `cached` tokens.
  function kernels(model, batch, tokens, cached, rates) {
    const { hidden: h, mlp, layers: L, queries: q, kvWidth, P } = model;
    const a = rates.activation;
    const passed = P * batch * tokens;
    const norm = 4 * passed * h * a;
    const pairs = tokens * cached + (tokens * (tokens + 1)) / 2;
    const list = [
      vector(0, passed * h * (rates.embedding + a)),
      vector(0, norm + model.vectors * rates.weight, L),
      vector(0, norm, L),
      matrix(passed, h, q + kvWidth, rates, rates.weight, L),
      matrix(passed, q, h, rates, rates.weight, L),
      vector(0, passed * (2 * q * a + kvWidth * (a + rates.kv)), L),
      attention(model, batch, tokens, pairs, cached + tokens, rates, L),
      matrix(passed, h, 2 * mlp, rates, rates.weight, L),
      matrix(passed, mlp, h, rates, rates.weight, L),
      vector(0, passed * 3 * mlp * a, L),
    ];
    if (rates.devices > 1) {
      const bytes = ((2 * (rates.devices - 1)) / rates.devices) * passed * h * a;
      list.push({ flops: 0, bytes, times: 2 * L, kind: "reduce" });
    }
    list.push(vector(0, norm + h * rates.weight));
    if (P > 1) {
      const rows = batch * tokens;
      const streams = P * rows * h * a;
      list.push(
        vector(0, 2 * streams),
        matrix(rows, P * h, h, rates, rates.weight),
        vector(0, 2 * rows * h * a),
        matrix(rows, h, P, rates, rates.weight),
        vector((2 * streams) / a, streams + rows * (h + P) * a),
      );
    }
    list.push(matrix(batch, h, model.vocab, rates, rates.tied));
    return list;
  }

  // --- Times (scalelab/cost/roofline.py) ---

  // Σ max(one₀ + one₁·s, two₀ + two₁·s) over integers s from `first` to `last`.
  function sumOfHigher(one, two, first, last) {
    if (last < first) return 0;
    const slope = one[1] - two[1];
    const crossing = slope ? (two[0] - one[0]) / slope : Infinity;
    const middle = first <= crossing && crossing < last ? floor(crossing) : last;
    const run = (start, end) =>
      (end - start + 1) * max(...[one, two].map((line) => line[0] + (line[1] * (start + end)) / 2));
    return run(first, middle) + (middle < last ? run(middle + 1, last) : 0);
  }

  function deviceSeconds(model, batch, cached, steps, rates) {
    let fixed = 0;
    for (const kernel of kernels(model, batch, 1, 0, rates)) {
      if (kernel.kind !== "attention") fixed += seconds(rates, kernel);
    }
    const [none, one] = [0, 1].map((keys) => attention(model, batch, 1, keys, keys, rates, 1));
    const flops = [none.flops / rates.attentionFlops, (one.flops - none.flops) / rates.attentionFlops];
    const moved = [none.bytes / rates.bytes, (one.bytes - none.bytes) / rates.bytes];
    const within = sumOfHigher(flops, moved, cached + 1, cached + steps);
    return steps * fixed + model.layers * (within + steps * rates.launch);
  }

  function decodeSeconds(model, batch, cached, steps, rates) {
    if (steps === 0) return 0;
    let host = 0;
    for (const kernel of kernels(model, batch, 1, 0, rates)) host += rates.stepHost * kernel.times;
    if (host === 0) return deviceSeconds(model, batch, cached, steps, rates);
    let [waiting, free] = [0, steps + 1];
    while (free - waiting > 1) {
      const middle = floor((waiting + free) / 2);
      const step = passSeconds(rates, kernels(model, batch, 1, cached + middle - 1, rates), 0);
      if (step <= host) waiting = middle;
      else free = middle;
    }
    return waiting * host + deviceSeconds(model, batch, cached + waiting, steps - waiting, rates);
  }

  // --- Memory (scalelab/cost/memory.py) ---

  function availableBytes(on) {
    const usable = orElse(on.usable_bytes, on.memory_bytes);
    return on.parallel * max(usable / 2, usable - on.kindOf.reserve_gib * on.gib);
  }

  function activationBytes(model, batch, tokens, rates) {
    const { hidden: h, P } = model;
    const rows = P * batch;
    const moments = [
      batch * model.vocab,
      P > 1 ? (2 * rows + 2 * batch) * tokens * h : 0,
      rows * (tokens * (2 * h + 2 * model.queries + model.kvWidth) + model.prefix * model.kvWidth),
      rows * tokens * (2 * h + 3 * model.mlp),
    ];
    return max(...moments) * rates.activation;
  }

  // Memory in bytes and times in seconds of a workload {batch, tokensIn, tokensOut} on a device.
  function price(model, workload, on, precise) {
    const rates = findRates(on, precise);
    const { batch, tokensIn, tokensOut } = workload;
    const { P, kvWidth, layers: L } = model;
    const weights = model.backbone * rates.weight + model.vocab * model.hidden * rates.tied;
    const aggregator = model.aggregator * rates.weight;
    const prefix = P * model.prefix * kvWidth * L * rates.kv;
    const cached = (tokensIn + tokensOut - 1) * kvWidth * cacheCopies(model, rates) * L * rates.kv;
    const cache = P * batch * cached;
    const activations = activationBytes(model, batch, tokensIn, rates);
    const ttft = passSeconds(rates, kernels(model, batch, tokensIn, 0, rates), rates.host);
    const decode = decodeSeconds(model, batch, tokensIn, tokensOut - 1, rates);
    return {
      weightBytes: weights,
      cacheBytes: cache,
      activationBytes: activations,
      memoryBytes: weights + aggregator + prefix + cache + activations,
      deviceBytes: availableBytes(on),
      ttft,
      tpot: tokensOut > 1 ? decode / (tokensOut - 1) : 0,
      latency: ttft + decode,
      spread: on.kindOf.spread,
      memorySpread: on.kindOf.memory_spread,
    };
  }

  // --- Decoders (scalelab/architecture.py, scalelab/plan/shapes.py) ---

  // The decoder of a family at a real-valued width with P streams.
  function ofWidth(family, h, P) {
    const layers = family.deepening ? min(family.layers, max(2, h / family.width_per_layer)) : family.layers;
    const mlp = family.mlp_ratio * h;
    const kv = (family.kv_heads * h) / family.heads;
    const vectors = 3 * h + 2 * kv;
    const aggregator = P > 1 ? P * h * h + h + h * P + P : 0;
    const prefix = P > 1 ? family.prefix_tokens : 0;
    const backbone = layers * (2 * h * h + 2 * h * kv + 3 * h * mlp + vectors) + h;
    const paper = backbone + layers * 2 * P * kv * prefix + aggregator;
    return {
      hidden: h,
      layers,
      mlp,
      P,
      prefix,
      aggregator,
      backbone,
      vectors,
      queries: h,
      kvWidth: 2 * kv,
      heads: family.heads,
      kvHeads: family.kv_heads,
      vocab: family.vocab,
      counts: { paper, backbone, total: paper + family.vocab * h },
    };
  }

  // The decoder of a family with N parameters by a convention; null outside the range of widths.
  function decoder(family, N, P, convention) {
    const count = (h) => ofWidth(family, h, P).counts[convention];
    if (!(count(family.min_width) <= N && N <= count(family.max_width))) return null;
    let [low, high] = [log(family.min_width), log(family.max_width)];
    for (let i = 0; i < STEPS; i++) {
      const middle = (low + high) / 2;
      if (count(Math.exp(middle)) <= N) low = middle;
      else high = middle;
    }
    return ofWidth(family, Math.exp(low), P);
  }

  // Training FLOPs on `tokens`, with all streams from the start.
  const trainFlops = (model, tokens, perToken) => perToken * model.backbone * tokens * model.P;

  scalelab.roofline = { device, precision, price, decoder, ofWidth, trainFlops, availableBytes };
})();
