// The explorer: controls, numbers and the (N, P) contour of one fit, evaluated in the page.
// scalelab.explorer(element, data) draws it; data is from scalelab/page/explorer.py.
(function () {
  "use strict";

  const scalelab = (window.scalelab = window.scalelab || {});
  const STREAMS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
  const BATCHES = Array.from({ length: 11 }, (_, i) => 2 ** i);
  const GIB = 2 ** 30;
  const SIGMAS = 1.96; // half width of a 95 % interval
  const FAR = 1.0005; // factor outside the runs from which a note is shown
  const SUFFIX = { "": 1, k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12 };
  const BYTES = { b: 1, kb: 1e3, mb: 1e6, gb: 1e9, tb: 1e12, kib: 2 ** 10, mib: 2 ** 20, gib: GIB, tib: 2 ** 40 };
  const TIMES = { us: 1e-6, µs: 1e-6, ms: 1e-3, s: 1, min: 60 };
  const LIMITS = {
    memory: { label: "Memory", short: "memory", of: (price) => price.memoryBytes },
    ttft: { label: "Time to first token", short: "time to first token", of: (price) => price.ttft },
    tpot: { label: "Time per token", short: "time per token", of: (price) => price.tpot },
  };
  // Names of the variables that get a slider only if the law has them.
  const OTHERS = {
    C: "Training compute C, FLOPs",
    U: "Unique training tokens U",
    X: "Experts X",
    lr: "Peak learning rate",
    B: "Batch size B",
  };

  // --- Small helpers ---

  // An element with attributes, and children that are elements or text: text is never read as HTML.
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  // A positive number from text such as 1.6B or 500ms; null if it is none.
  function parse(text, units, unitless) {
    const match = /^\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zµ]*)\s*$/i.exec(text.replaceAll(",", ""));
    if (!match) return null;
    const factor = match[2] ? units[match[2].toLowerCase()] : unitless;
    const value = Number(match[1]) * factor;
    return Number.isFinite(value) && value > 0 ? value : null;
  }

  const plain = (value) => Number(value.toPrecision(4)).toString();
  const short = (value) => (value >= 1e15 ? exponent(value) : value < 0.01 ? exponent(value) : count(value));
  const count = (value) => scalelab.format.count(value);

  function exponent(value) {
    const [mantissa, power] = value.toExponential(2).split("e");
    return `${Number(mantissa)}e${Number(power)}`;
  }

  // Text that a number input shows and reads back: 1.6B, with up to four digits.
  function editable(value) {
    for (const [factor, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
      if (value >= factor * 0.99995 && value < 1e15) {
        return `${plain(value / (letter === "k" ? 1e3 : factor))}${letter}`;
      }
    }
    return value >= 1e15 || value < 0.01 ? exponent(value) : plain(value);
  }

  function interval(low, high, form) {
    if (low === null || high === null) return "";
    const ends = [low, high].map((end) => (Number.isFinite(end) ? form(end) : null));
    if (ends[0] === null) return "no plain model reaches it";
    return ends[1] === null ? `above ${ends[0]}` : ends[0] === ends[1] ? "" : `${ends[0]}–${ends[1]}`;
  }

  function around(value, spread, form) {
    return spread ? interval(value * Math.exp(-SIGMAS * spread), value * Math.exp(SIGMAS * spread), form) : "";
  }

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const nearest = (values, value) =>
    values.reduce((best, each, i) => (Math.abs(Math.log(each / value)) < Math.abs(Math.log(values[best] / value)) ? i : best), 0);

  // --- State ---

  // Sizes around the runs: the range of a slider.
  function range(fit, name, wide) {
    const [low, high] = fit.ranges[name] || [wide[0] * 10, wide[1] / 100];
    return [10 ** Math.floor(Math.log10(low / 3)), 10 ** Math.ceil(Math.log10(high * 30))];
  }

  // The setting at the start: a size in the upper half of the runs with several streams.
  function defaults(data, fit) {
    const levels = [...new Set(fit.runs.map(([, P]) => P))].sort((a, b) => a - b);
    const sizes = [...new Set(fit.runs.map(([N]) => N))].sort((a, b) => a - b);
    const middle = (values, share, other) => (values.length ? values[Math.floor(share * (values.length - 1))] : other);
    const state = {
      N: Number(middle(sizes, 0.75, 1e9).toPrecision(2)),
      P: fit.variables.includes("P") ? middle(levels, 0.67, 1) : 1,
      D: fit.ranges.D ? fit.ranges.D[1] : 1e11,
    };
    for (const name of fit.variables) {
      if (!(name in state)) {
        const [low, high] = fit.ranges[name] || [1, 1];
        state[name] = Number(Math.sqrt(low * high).toPrecision(2));
      }
    }
    return state;
  }

  function initial(data) {
    return {
      fit: 0,
      ...defaults(data, data.fits[0]),
      device: data.start.device,
      parallel: 1,
      weights: data.start.weights,
      kv: "",
      batch: 1,
      in: data.start.tokens_in,
      out: data.start.tokens_out,
      memory: null, // bytes; null: the device's
      ttft: 0.5,
      tpot: 0.02,
    };
  }

  // Settings in the hash of the address: #explorer&N=1.6e9&P=4. Unknown names and values are ignored.
  function fromHash(data, state) {
    if (!location.hash.startsWith("#explorer&")) return state;
    const given = new URLSearchParams(location.hash.slice("#explorer&".length));
    const read = { ...state };
    const chosen = Number(given.get("fit") ?? 0);
    if (data.fits[chosen]) Object.assign(read, { fit: chosen }, defaults(data, data.fits[chosen]));
    for (const [name, text] of given) {
      const value = Number(text);
      if (name === "device" && Object.hasOwn(data.tables.devices, text)) read.device = text;
      else if (name === "weights" && Object.hasOwn(data.tables.formats, text)) read.weights = text;
      else if (name === "kv" && Object.hasOwn(data.tables.kv_bits, text)) read.kv = text;
      else if (["memory", "ttft", "tpot"].includes(name) && text === "none") read[name] = name === "memory" ? null : Infinity;
      else if (name !== "fit" && typeof read[name] !== "string" && name in read && Number.isFinite(value) && value > 0) {
        read[name] = ["P", "batch", "in", "out", "parallel"].includes(name) ? Math.max(1, Math.round(value)) : value;
      }
    }
    if (!parallels(data).includes(read.parallel)) read.parallel = 1;
    if (!data.fits[read.fit].variables.includes("P")) read.P = 1;
    return read;
  }

  function toHash(data, state) {
    const start = { ...initial(data), ...defaults(data, data.fits[state.fit]) };
    const changed = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) {
      if (value !== start[name]) changed.set(name, value === null || value === Infinity ? "none" : value);
    }
    const hash = `#explorer&${changed}`;
    if (!changed.size && !location.hash.startsWith("#explorer&")) return;
    try {
      history.replaceState(null, "", hash);
    } catch {
      // a page inside a notebook has no address of its own
    }
  }

  const parallels = (data) => [1, 2, 4, 8, 16].filter((t) => data.family.heads % t === 0);

  // --- Numbers ---

  function pointOf(fit, state) {
    return Object.fromEntries(fit.variables.map((name) => [name, state[name]]));
  }

  function pricing(data, state) {
    const { device, precision, price } = scalelab.roofline;
    const on = device(data.tables, state.device, state.parallel);
    const stored = precision(data.tables, state.weights, state.kv || null);
    const workload = { batch: state.batch, tokensIn: state.in, tokensOut: state.out };
    return { on, of: (model) => price(model, workload, on, stored) };
  }

  // Loss, plain N of equal loss, costs and notes of a setting.
  function numbers(data, state) {
    const fit = data.fits[state.fit];
    const has = (name) => fit.variables.includes(name);
    const at = pointOf(fit, state);
    const prices = pricing(data, state);
    const model = scalelab.roofline.decoder(data.family, state.N, state.P, fit.convention);
    const tokens = has("D") || fit.tokens === null ? state.D : fit.tokens;
    const notes = [];
    for (const name of fit.variables) {
      const seen = fit.ranges[name];
      const factor = seen ? Math.max(at[name] / seen[1], seen[0] / at[name]) : 1;
      if (factor > FAR) {
        notes.push(`${name} = ${short(at[name])} is a factor of ${plain(Number(factor.toPrecision(3)))} outside the runs.`);
      }
    }
    return {
      model,
      tokens,
      notes,
      loss: fit.law ? scalelab.law.evaluate(fit, at) : null,
      equal: fit.law && has("N") && has("P") ? scalelab.law.nEquivalent(fit, at) : null,
      price: model ? prices.of(model) : null,
      flops: model ? scalelab.roofline.trainFlops(model, tokens, data.flops_per_token) : null,
    };
  }

  // A sentence on how far a setting is outside the runs; empty inside.
  function outside(fit, at) {
    const far = ["N", "P"].filter((name) => fit.ranges[name] && at[name] / fit.ranges[name][1] > FAR);
    const words = far.map((name) => `${name} is ${Number((at[name] / fit.ranges[name][1]).toPrecision(2)).toLocaleString("en")} times the largest of the runs`);
    return words.length ? ` ${words.join(", and ")}.` : "";
  }

  // Limits that apply, in bytes and seconds.
  function bounds(data, state) {
    const held = scalelab.roofline.availableBytes(pricing(data, state).on);
    const found = { memory: Math.min(held, state.memory ?? held) };
    if (state.ttft !== Infinity) found.ttft = state.ttft;
    if (state.tpot !== Infinity && state.out > 1) found.tpot = state.tpot;
    return found;
  }

  // Largest decoder with P streams whose `metric` is within its bound; null if none is.
  function widest(data, state, P, metric, bound) {
    const { of } = pricing(data, state);
    const model = (ln) => scalelab.roofline.ofWidth(data.family, Math.exp(ln), P);
    let [low, high] = [Math.log(data.family.min_width), Math.log(data.family.max_width)];
    const within = (ln) => LIMITS[metric].of(of(model(ln))) <= bound;
    if (!within(low)) return null;
    if (within(high)) return model(high);
    for (let i = 0; i < 44; i++) {
      const middle = (low + high) / 2;
      if (within(middle)) low = middle;
      else high = middle;
    }
    return model(low);
  }

  // For each limit the largest N at each P, and the setting with the lowest loss within all of them.
  function frontier(data, state) {
    const fit = data.fits[state.fit];
    const limits = bounds(data, state);
    const streams = fit.variables.includes("P") ? STREAMS : [1];
    const lines = Object.fromEntries(Object.keys(limits).map((name) => [name, []]));
    let best = null;
    for (const P of streams) {
      let least = null;
      for (const [name, bound] of Object.entries(limits)) {
        const model = widest(data, state, P, name, bound);
        lines[name].push([model ? model.counts[fit.convention] : 0, P]);
        if (least === null || !model || model.hidden < least.model?.hidden) least = { model, binds: name };
      }
      if (least.model === null) continue;
      const N = least.model.counts[fit.convention];
      const loss = fit.law && fit.variables.includes("N") ? scalelab.law.loss(fit.law, fit.params, pointOf(fit, { ...state, N, P })) : NaN;
      if (Number.isFinite(loss) && (best === null || loss < best.loss)) best = { N, P, loss, binds: least.binds };
    }
    return { limits, lines, best, streams };
  }

  scalelab.explorerNumbers = { numbers, frontier, initial, parse };

  // --- Controls ---

  // A labelled slider with a text input for the same value.
  function slider(options) {
    const { label, name, hint, onChange } = options;
    const id = `explorer-${name}`;
    const input = make("input", { id, type: "text", inputmode: "text", autocomplete: "off", spellcheck: "false" });
    const track = make("input", { type: "range", min: 0, "aria-label": `${label}, slider` });
    const fault = make("p", { class: "explorer-fault", id: `${id}-fault`, role: "alert" });
    const note = make("p", { class: "explorer-hint", id: `${id}-hint` }, hint || "");
    input.setAttribute("aria-describedby", `${id}-hint ${id}-fault`);
    const block = make(
      "div",
      { class: "explorer-slider" },
      make("label", { for: id }, label),
      input,
      track,
      note,
      fault,
    );
    let value = 1;
    let scale = { low: 1, high: 10, steps: null };
    const show = () => {
      const { low, high, steps } = scale;
      track.max = steps ? steps.length - 1 : 600;
      track.step = 1;
      const place = steps ? nearest(steps, value) : 600 * (Math.log(value / low) / Math.log(high / low));
      track.value = clamp(Math.round(place), 0, Number(track.max));
      track.setAttribute("aria-valuetext", editable(value));
      if (document.activeElement !== input || input.dataset.done) input.value = editable(value);
      delete input.dataset.done;
    };
    track.addEventListener("input", () => {
      const { low, high, steps } = scale;
      const place = Number(track.value);
      const raw = steps ? steps[place] : low * (high / low) ** (place / 600);
      value = options.whole ? Math.max(1, Math.round(raw)) : Number(raw.toPrecision(3));
      fault.textContent = "";
      input.removeAttribute("aria-invalid");
      show();
      onChange(value);
    });
    const read = () => {
      const given = parse(input.value, SUFFIX, 1);
      const wrong = given === null || (options.whole && (given !== Math.round(given) || given > (options.most || 1e12)));
      input.toggleAttribute("aria-invalid", false);
      if (wrong) {
        input.setAttribute("aria-invalid", "true");
        fault.textContent = options.whole
          ? `Give a whole number from 1 to ${count(options.most || 1e12)}, such as 8.`
          : "Give a positive number, such as 1.6B, 500M or 2e9.";
        return;
      }
      fault.textContent = "";
      value = given;
      input.dataset.done = "yes";
      show();
      onChange(value);
    };
    input.addEventListener("change", read);
    return {
      block,
      set(next, limits, disabled = false, text = null) {
        value = next;
        scale = { ...scale, ...limits };
        input.disabled = track.disabled = disabled;
        if (text !== null) note.textContent = text;
        fault.textContent = "";
        input.removeAttribute("aria-invalid");
        input.dataset.done = "yes";
        show();
      },
    };
  }

  function select(name, label, groups, onChange) {
    const id = `explorer-${name}`;
    const element = make("select", { id });
    for (const [title, options] of groups) {
      const made = options.map(([value, text]) => make("option", { value }, text));
      element.append(...(title ? [make("optgroup", { label: title }, ...made)] : made));
    }
    element.addEventListener("change", () => onChange(element.value));
    return { block: make("div", { class: "explorer-select" }, make("label", { for: id }, label), element), element };
  }

  // A text input for a limit with a unit; empty means no limit, or the device's memory.
  function limit(name, placeholder, form, read, onChange) {
    const id = `explorer-${name}-limit`;
    const input = make("input", { id, type: "text", placeholder, autocomplete: "off", spellcheck: "false" });
    const fault = make("p", { class: "explorer-fault", id: `${id}-fault`, role: "alert" });
    input.setAttribute("aria-describedby", fault.id);
    input.addEventListener("change", () => {
      const given = input.value.trim() ? read(input.value) : undefined;
      fault.textContent = given === null ? `Give ${name === "memory" ? "memory such as 24GiB" : "a time such as 500ms"}, or nothing.` : "";
      input.toggleAttribute("aria-invalid", given === null);
      if (given !== null) onChange(given);
    });
    const block = make("div", { class: "explorer-limit" }, make("label", { for: id }, LIMITS[name].label), input, fault);
    return { block, set: (value) => (input.value = value === null || value === Infinity ? "" : form(value)) };
  }

  function deviceGroups(tables) {
    const titles = {
      "": "measured", geforce: "GeForce", amd: "AMD", apple: "Apple", cpu: "CPU", apu: "APU", npu: "NPU",
    };
    const groups = {};
    for (const [name, hardware] of Object.entries(tables.devices)) {
      (groups[hardware.kind] ??= []).push([name, `${name} (${plain(hardware.memory_bytes / GIB)} GiB)`]);
    }
    return Object.entries(groups).map(([kind, options]) => [titles[kind] ?? kind, options]);
  }

  const formatOptions = (tables) =>
    Object.entries(tables.formats).map(([name, format]) => [name, `${name} (${plain(format.matrix)} bits)`]);

  // --- The explorer ---

  function explorer(element, data) {
    let state = fromHash(data, initial(data));
    const set = (changes) => {
      state = { ...state, ...changes };
      draw();
    };
    const fits = select("fit", "Fit", [], (value) => choose(Number(value)));
    const choose = (index) => set({ fit: index, ...defaults(data, data.fits[index]) });
    const sliders = {
      N: slider({ name: "N", label: "Parameters N", onChange: (N) => set({ N }) }),
      P: slider({ name: "P", label: "Parallel streams P", whole: true, most: 1024, onChange: (P) => set({ P }) }),
      D: slider({ name: "D", label: "Training tokens D", onChange: (D) => set({ D }) }),
    };
    for (const [name, label] of Object.entries(OTHERS)) {
      sliders[name] = slider({ name, label, onChange: (value) => set({ [name]: value }) });
    }
    const requests = {
      batch: slider({ name: "batch", label: "Concurrent requests", whole: true, most: 1e6, onChange: (batch) => set({ batch }) }),
      in: slider({ name: "in", label: "Prompt tokens (in)", whole: true, most: 1e8, onChange: (n) => set({ in: n }) }),
      out: slider({ name: "out", label: "Generated tokens (out)", whole: true, most: 1e8, onChange: (n) => set({ out: n }) }),
    };
    const device = select("device", "Device", deviceGroups(data.tables), (name) => set({ device: name }));
    const parallel = select("parallel", "Devices (tensor parallel)", [[null, parallels(data).map((t) => [t, t])]], (t) => set({ parallel: Number(t) }));
    const weights = select("weights", "Weights", [[null, formatOptions(data.tables)]], (name) => set({ weights: name }));
    const kvNames = Object.keys(data.tables.kv_bits).map((name) => [name, name]);
    const kv = select("kv", "KV cache", [[null, [["", "as usual for the weights"], ...kvNames]]], (name) => set({ kv: name }));
    const bytes = (value) => `${plain(value / GIB)}GiB`;
    const time = (value) => (value >= 1 ? `${plain(value)}s` : `${plain(value * 1e3)}ms`);
    const limits = {
      memory: limit("memory", "the device's", bytes, (text) => parse(text, BYTES, GIB), (value) => set({ memory: value ?? null })),
      ttft: limit("ttft", "none", time, (text) => parse(text, TIMES, NaN), (value) => set({ ttft: value ?? Infinity })),
      tpot: limit("tpot", "none", time, (text) => parse(text, TIMES, NaN), (value) => set({ tpot: value ?? Infinity })),
    };
    const equation = make("p", { class: "explorer-equation" });
    const group = (title, ...blocks) => make("fieldset", {}, make("legend", {}, title), ...blocks);
    const fitGroup = group("Law", fits.block, equation);
    const controls = make(
      "div",
      { class: "explorer-controls" },
      fitGroup,
      group("Model", ...Object.values(sliders).map((each) => each.block)),
      group("Device", device.block, parallel.block, weights.block, kv.block),
      group("Request", ...Object.values(requests).map((each) => each.block)),
      group("Limits", ...Object.values(limits).map((each) => each.block)),
    );
    const tiles = make("dl", { class: "explorer-tiles" });
    const said = make("p", { class: "explorer-said", role: "status" }); // for screen readers, after a pause
    const about = make("p", { class: "explorer-about" });
    const notes = make("ul", { class: "explorer-notes" });
    const chart = make("div", { class: "explorer-chart", role: "img" });
    const title = make("h3", {});
    const answer = make("p", { class: "explorer-answer" });
    const go = make("button", { type: "button" }, "Use this setting");
    go.addEventListener("click", () => set({ N: Number(best.N.toPrecision(6)), P: best.P }));
    const reset = make("button", { type: "button" }, "Reset");
    reset.addEventListener("click", () => set({ ...initial(data), fit: state.fit, ...defaults(data, data.fits[state.fit]) }));
    const summary = make("p", { class: "explorer-summary", "aria-hidden": "true" });
    const results = make("div", { class: "explorer-results" }, tiles, about, notes, title, chart, answer, make("p", { class: "explorer-buttons" }, go, reset));
    element.classList.add("explorer");
    element.replaceChildren(controls, results, summary, said);
    let best = null;
    let waiting = false;
    let pause = 0;

    function listFits() {
      fits.element.replaceChildren(...data.fits.map((fit, i) => make("option", { value: i }, `${fit.title}, ${fit.name} law`)));
    }

    function showControls() {
      const fit = data.fits[state.fit];
      fits.element.value = state.fit;
      equation.textContent = fit.equation;
      for (const name of ["N", "P", "D", ...Object.keys(OTHERS)]) {
        const inLaw = fit.variables.includes(name);
        sliders[name].block.hidden = !inLaw && name in OTHERS;
        if (sliders[name].block.hidden) continue;
        const meaning = fit.labels[name] ?? "";
        if (name === "P") {
          sliders.P.set(state.P, { steps: STREAMS }, !inLaw, inLaw ? "" : "This law has no P.");
        } else if (name === "D" && !inLaw) {
          const fixed = fit.tokens !== null;
          const text = fixed ? "The law has no D: it is valid for the D of its runs." : "The law has no D: only training FLOPs depend on it.";
          const [low, high] = range(fit, "D", [1e6, 1e14]);
          sliders.D.set(fixed ? fit.tokens : state.D, { low, high }, fixed, text);
        } else {
          const [low, high] = range(fit, name, name === "N" ? [1e6, 1e13] : [1e6, 1e15]);
          const hint = name === "N" ? (inLaw ? meaning : "The law has no N: only costs depend on it.") : "";
          sliders[name].set(state[name], { low, high }, false, hint);
        }
      }
      requests.batch.set(state.batch, { steps: BATCHES });
      requests.in.set(state.in, { low: 1, high: 131072 });
      requests.out.set(state.out, { low: 1, high: 32768 });
      device.element.value = state.device;
      parallel.element.value = state.parallel;
      weights.element.value = state.weights;
      kv.element.value = state.kv;
      for (const name of Object.keys(limits)) limits[name].set(state[name]);
    }

    function tile(name, value, ends, extra, warn) {
      return make(
        "div",
        { class: warn ? "explorer-tile warn" : "explorer-tile", "data-tile": name },
        make("dt", {}, name),
        make("dd", { class: "explorer-value" }, value),
        make("dd", { class: "explorer-ends" }, ends || " "),
        make("dd", { class: "explorer-extra" }, extra || " "),
      );
    }

    function showNumbers() {
      const fit = data.fits[state.fit];
      const found = numbers(data, state);
      const { loss, equal, price, model, flops } = found;
      const four = (value) => value.toFixed(4);
      const size = (value) => scalelab.format.bytes(value);
      const span = (value) => scalelab.format.seconds(value);
      const list = [];
      if (!loss) list.push(tile("Loss", "—", "", "not a law that this page can evaluate"));
      else if (Number.isNaN(loss.value)) list.push(tile("Loss", "—", "", "the law is undefined here", true));
      else list.push(tile("Loss", four(loss.value), interval(loss.low, loss.high, four), "nats per token"));
      if (equal && !Number.isNaN(equal.value)) {
        const times = equal.value / state.N;
        const value = Number.isFinite(equal.value) ? short(equal.value) : "beyond any";
        list.push(tile("Plain N of equal loss", value, interval(equal.low, equal.high, short), Number.isFinite(times) ? `${plain(Number(times.toPrecision(3)))} times N` : ""));
      }
      if (price) {
        const limits = bounds(data, state);
        const over = (name) => LIMITS[name].of(price) > (limits[name] ?? Infinity);
        const used = price.memoryBytes / limits.memory;
        const share = over("memory") ? `exceeds ${size(limits.memory)}` : `${used < 0.01 ? "below 1" : (100 * used).toFixed(0)} % of ${size(limits.memory)}`;
        const late = (name) => (limits[name] ? `${over(name) ? "exceeds" : "within"} ${span(limits[name])}` : "no limit");
        list.push(
          tile("Memory", size(price.memoryBytes), around(price.memoryBytes, price.memorySpread, size), share, over("memory")),
          tile("Time to first token", span(price.ttft), around(price.ttft, price.spread, span), late("ttft"), over("ttft")),
          tile("Time per token", state.out > 1 ? span(price.tpot) : "—", state.out > 1 ? around(price.tpot, price.spread, span) : "", state.out > 1 ? late("tpot") : "one token only", state.out > 1 && over("tpot")),
        );
        list.push(tile("Training FLOPs", exponent(flops), "", `6·N·D·P, D = ${short(found.tokens)}`));
        about.textContent =
          `Priced as a decoder of width ${Math.round(model.hidden).toLocaleString("en")} with ${plain(Number(model.layers.toPrecision(3)))} layers, ` +
          `${model.heads} heads, ${model.kvHeads} KV heads and a vocabulary of ${model.vocab.toLocaleString("en")}, by the roofline.`;
      } else {
        list.push(tile("Memory", "—", "", "no decoder has this N", true));
        about.textContent = "No decoder of the family has this N: choose another.";
      }
      tiles.replaceChildren(...list);
      const costs = price ? [size(price.memoryBytes), span(price.ttft), state.out > 1 ? `${span(price.tpot)}/token` : null] : [];
      const brief = [loss && !Number.isNaN(loss.value) ? `loss ${four(loss.value)}` : null, ...costs];
      summary.textContent = brief.filter(Boolean).join(" · ");
      clearTimeout(pause);
      pause = setTimeout(() => (said.textContent = brief.filter(Boolean).join(", ")), 700);
      const far = found.notes.length ? [[...found.notes, "The interval is valid only if the law holds there."].join(" ")] : [];
      const lines = [...far, ...fit.notes];
      notes.replaceChildren(...lines.map((text) => make("li", {}, text)));
      notes.hidden = !lines.length;
    }

    function showChart() {
      const found = frontier(data, state);
      best = found.best;
      const form = (name) => `${LIMITS[name].short}: ${(name === "memory" ? scalelab.format.bytes : scalelab.format.seconds)(found.limits[name])}`;
      title.textContent = scalelab.explorerChart(chart, data, state, found, form);
      answer.textContent = best
        ? `Lowest loss within the limits: ${best.loss.toFixed(4)} with N = ${short(best.N)} and P = ${best.P}, where ${LIMITS[best.binds].short} binds.${outside(data.fits[state.fit], best)}`
        : data.fits[state.fit].variables.includes("N") && data.fits[state.fit].law
          ? "No decoder is within the limits: relax one of them."
          : "";
      go.hidden = !best;
      chart.setAttribute("aria-label", `${title.textContent}. ${answer.textContent}`);
    }

    function draw() {
      showControls();
      showNumbers();
      toHash(data, state);
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        showChart();
      });
    }

    window.addEventListener("hashchange", () => {
      if (!location.hash.startsWith("#explorer&")) return;
      state = fromHash(data, initial(data));
      draw();
    });
    document.addEventListener("scalelab:theme", showChart); // the colours of contours are not tokens
    document.addEventListener("scalelab:group", ({ detail }) => {
      const title = scalelab.data.groups?.[detail]?.title;
      const found = data.fits.findIndex((fit) => fit.title === title);
      if (found >= 0 && found !== state.fit) choose(found);
    });
    // On narrow screens the numbers stay in sight while a slider moves, and cover nothing.
    new IntersectionObserver(([entry]) => (summary.hidden = entry.isIntersecting)).observe(results);
    listFits();
    draw();
    explorer.shown = {
      // Adds fits in front and shows the first of them.
      add(more) {
        data.fits.unshift(...more);
        listFits();
        choose(0);
      },
      lawGroup: fitGroup,
      state: () => ({ ...state }),
      set,
    };
    return explorer.shown;
  }

  explorer.make = make;
  scalelab.explorer = explorer;
})();
