// The section on plans: loss over memory and latency with the limits, and the cost of streams against a larger N.
(function () {
  "use strict";

  const scalelab = window.scalelab;
  const { make, looks, byP, legend } = scalelab.ui;
  const { count, bytes, seconds, number } = scalelab.format;
  const GROWN = "--muted";

  (scalelab.data.groups || []).forEach((group, index) => {
    const part = document.querySelector(`#plan [data-group="${index}"]`);
    if (!part) return;
    if (group.plan) scalelab.onGroup(index, () => frontier(part, group.plan));
    if (group.costs) scalelab.onGroup(index, () => compare(part, group.costs));
  });

  // The unit that suits the largest value.
  function unitOf(name, values, binary = true) {
    const most = Math.max(...values);
    const sizes = name === "memory"
      ? binary ? { GiB: 2 ** 30, MiB: 2 ** 20, KiB: 2 ** 10 } : { GB: 1e9, MB: 1e6, kB: 1e3 }
      : { s: 1, ms: 1e-3, µs: 1e-6 };
    const [unit, size] = Object.entries(sizes).find(([, s]) => most >= 0.2 * s) || Object.entries(sizes)[2];
    return { label: `${name}, ${unit}`, size };
  }
  const shown = (name, value) => (name === "memory" ? bytes(value) : seconds(value));

  function range(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = 0.05 * (high - low || Math.abs(high) || 1);
    return [low - margin, high + margin];
  }

  function axis(values, unit, element) {
    const scaled = values.map((value) => value / unit.size);
    const [low, high] = [Math.min(...scaled), Math.max(...scaled)];
    const wide = Math.max(1.03, (high / low) ** 0.04);
    return { ...scalelab.logAxis(low / wide, high * wide, (v) => number(v, 4), element.clientWidth < 420 ? 4 : 6), title: { text: unit.label } };
  }

  function frontier(part, plan) {
    const shades = looks(plan.curves.map((curve) => curve.P));
    const within = range(plan.curves.flatMap((curve) => curve.loss).filter((v) => v !== null));
    for (const name of ["memory", "latency"]) {
      const element = part.querySelector(`[data-chart="plan-${name}"]`);
      const every = plan.curves.flatMap((curve) => curve[name]);
      const unit = unitOf(name, every, plan.binary);
      const traces = [];
      for (const curve of plan.curves) {
        const look = shades.get(curve.P);
        const best = plan.options.some((option) => option.best && option.P === curve.P);
        const x = curve[name].map((v) => v / unit.size);
        if (best && curve.low.every((v, i) => v !== null && curve.high[i] !== null)) {
          traces.push({ x: [...x, ...[...x].reverse()], y: [...curve.high, ...[...curve.low].reverse()], type: "scatter", mode: "lines", fill: "toself", fillcolor: `${look.colour}/0.1`, line: { width: 0, color: look.colour }, hoverinfo: "skip" });
        }
        const dash = curve.P > plan.measuredP ? "dot" : "solid";
        const text = x.map((_, i) => `P ${curve.P}: loss ${number(curve.loss[i], 5)}<br>${shown(name, curve[name][i])}${curve.within[i] ? "" : ", beyond a limit"}`);
        const base = { x, type: "scatter", mode: "lines", text, hoverinfo: "text" };
        traces.push({ ...base, y: curve.loss, line: { color: `${look.colour}/0.35`, width: 1.2, dash } });
        traces.push({ ...base, y: curve.loss.map((y, i) => (curve.within[i] ? y : null)), line: { color: look.colour, width: 2.2, dash } });
      }
      for (const best of [false, true]) {
        const mine = plan.options.filter((option) => option.best === best);
        traces.push({
          x: mine.map((option) => option[name] / unit.size), y: mine.map((option) => option.loss), type: "scatter", mode: "markers",
          marker: { color: mine.map((option) => shades.get(option.P).colour), symbol: best ? "star" : mine.map((option) => shades.get(option.P).marker), size: best ? 15 : mine.map((option) => 9 * shades.get(option.P).scale), line: { width: 1, color: "--panel" } },
          text: mine.map((option) => `${best ? "best: " : ""}P ${option.P}, N ${count(option.N, 4)}<br>loss ${number(option.loss, 5)}<br>${bytes(option.memory)}, ${seconds(option.latency)}`), hoverinfo: "text",
        });
      }
      const most = Math.max(...every);
      const limit = plan.limits[name];
      const near = limit !== null && limit !== undefined && limit < 3 * most;
      const x = axis(near ? [...every, limit * 1.05] : every, unit, element);
      const line = { type: "line", yref: "paper", y0: 0, y1: 1, x0: near ? limit / unit.size : 0, x1: near ? limit / unit.size : 0, line: { color: "--muted", width: 1.4, dash: "dash" } };
      const beyond = { type: "rect", yref: "paper", y0: 0, y1: 1, x0: line.x0, x1: 10 ** x.range[1], fillcolor: "--muted/0.1", line: { width: 0 }, layer: "below" };
      scalelab.chart(element, traces, { xaxis: x, yaxis: { title: { text: "loss by the law, nats per token" }, range: within }, shapes: near ? [beyond, line] : [] });
    }
    const items = byP(shades).map((item) => ({ ...item, label: item.value > plan.measuredP ? `${item.label}, no runs` : item.label }));
    const best = plan.options.find((option) => option.best);
    legend(part.querySelector('[data-legend="plan"]'), [...items, ...(best ? [{ label: "best", colour: shades.get(best.P).colour, marker: "star" }] : []), { label: "limit", colour: "--muted", marker: "dash" }]);
  }

  function compare(part, costs) {
    const all = Object.values(costs.steps).flat();
    const shades = looks([1, ...Object.values(costs.runs).flat().map((run) => run.P), ...all.map((step) => step.P)]);
    const controls = part.querySelector('[data-controls="cost"]');
    const levels = [...new Set(all.map((step) => step.P))].sort((a, b) => a - b);
    const state = { batch: costs.batches[0], P: levels[levels.length - 1] };
    const radios = (label, field, values, form) => {
      const set = make("fieldset", {}, make("legend", {}, label));
      for (const value of values) {
        const radio = make("input", { type: "radio", name: `${field}-${part.dataset.group}`, value: String(value), checked: value === state[field] });
        radio.addEventListener("change", () => {
          state[field] = value;
          draw();
        });
        set.append(make("label", {}, radio, form(value)));
      }
      controls.append(set);
    };
    if (levels.length > 1) radios("Arrows for", "P", levels, (P) => `P = ${P}`);
    radios("Batch size", "batch", costs.batches, String);
    legend(part.querySelector('[data-legend="cost"]'), [...byP(shades), { label: "larger N, equal loss", colour: GROWN, marker: "line" }]);

    function draw() {
      const runs = costs.runs[state.batch] || [];
      const steps = costs.steps[state.batch] || [];
      const losses = range([...runs.map((run) => run.loss), ...steps.flatMap((step) => [step.from, step.loss])]);
      for (const what of ["memory", "latency"]) {
        const element = part.querySelector(`[data-chart="cost-${what}"]`);
        const every = [...runs.map((run) => run[what]), ...steps.flatMap((step) => [step.base[what], step.streams[what], ...(step.plain ? [step.plain[what]] : [])])];
        const unit = unitOf(what, every);
        const traces = [...shades].map(([P, look]) => {
          const mine = runs.filter((run) => run.P === P).sort((a, b) => a[what] - b[what]);
          return {
            x: mine.map((run) => run[what] / unit.size), y: mine.map((run) => run.loss), type: "scatter", mode: "lines+markers",
            line: { color: `${look.colour}/0.6`, width: 1.3 }, marker: { color: look.colour, symbol: look.marker, size: 7 * look.scale },
            text: mine.map((run) => `P ${P}, N ${count(run.N, 4)}: loss ${number(run.loss, 5)}<br>${bytes(run.memory)}, ${seconds(run.latency)}`), hoverinfo: "text",
          };
        });
        const arrows = [];
        for (const step of steps.filter((one) => one.P === state.P)) {
          for (const [to, colour] of [[step.plain, GROWN], [step.streams, shades.get(step.P).colour]]) {
            if (!to) continue;
            arrows.push({
              x: Math.log10(to[what] / unit.size), y: step.loss, ax: Math.log10(step.base[what] / unit.size), ay: step.from,
              axref: "x", ayref: "y", xref: "x", yref: "y", text: "", showarrow: true, arrowhead: 2, arrowsize: 1.1, arrowwidth: 2, arrowcolor: colour,
            });
          }
        }
        scalelab.chart(element, traces, { xaxis: axis(every, unit, element), yaxis: { title: { text: "loss, nats per token" }, range: losses }, annotations: arrows });
      }
    }
    draw();
  }
})();
