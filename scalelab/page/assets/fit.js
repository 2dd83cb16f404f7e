// The section on fits: loss over N with curves and bands, residuals, and predicted against measured losses.
(function () {
  "use strict";

  const scalelab = window.scalelab;
  const { short, make, boxes, looks, byP, legend } = scalelab.ui;
  const { count, interval } = scalelab.format;
  const DASHES = ["solid", "dot", "dashdot", "longdash"];
  const groups = scalelab.data.groups || [];

  groups.forEach((group, index) => {
    if (group.charts) scalelab.onGroup(index, () => fit(index, group));
  });

  // Colours by P; by D where all runs have one P and D varies, on a ramp where there are many.
  function levelsOf(charts) {
    const P = charts.points.P || [];
    const curves = [...new Set(charts.curves.map((curve) => curve.D))].filter((D) => D !== null).sort((a, b) => a - b);
    const several = new Set(P).size > 1;
    const shades = looks(P);
    const onD = !several && curves.length > 1;
    const ramp = new Map(curves.map((D, i) => [D, { colour: `--ramp@${curves.length > 1 ? i / (curves.length - 1) : 0}`, marker: "circle" }]));
    const near = (D) => curves.reduce((best, level) =>
      Math.abs(Math.log(level / D)) < Math.abs(Math.log(best / D)) ? level : best, curves[0]);
    return { shades, curves, onD, ramp, near };
  }

  function fit(index, group) {
    const part = document.querySelector(`#fit [data-group="${index}"]`);
    const charts = group.charts;
    const levels = levelsOf(charts);
    const { shades, curves: tokens, onD, ramp } = levels;
    const few = new Set(tokens.length > 3 && !onD ? [tokens[0], tokens[Math.floor(tokens.length / 2)], tokens[tokens.length - 1]] : tokens);
    const state = { P: new Set(shades.keys()), D: few, bands: tokens.length < 2 || onD, others: new Set() };
    const elements = Object.fromEntries([...part.querySelectorAll("[data-chart]")].map((e) => [e.dataset.chart, e]));

    const draw = () => {
      if (elements.loss) loss(elements.loss, index, state, levels);
      residuals(elements.residuals, charts, state, levels);
      predicted(elements.predicted, charts, state, levels);
    };
    const controls = part.querySelector('[data-controls="loss"]');
    if (controls) {
      const set = (name) => (value) => {
        state[name] = value;
        draw();
      };
      if (shades.size > 1) controls.append(boxes("Streams", byP(shades), set("P")));
      if (tokens.length > 1) {
        const items = tokens.map((D) => ({ value: D, label: count(D), on: few.has(D), ...(onD ? ramp.get(D) : {}) }));
        controls.append(boxes("Training tokens D", items, set("D")));
      }
      const others = groups.map((other, i) => [other, i]).filter(([other, i]) =>
        i !== index && other.charts && other.charts.over === charts.over && other.charts.curves.length <= 16);
      if (others.length && others.length <= 5) {
        controls.append(boxes("Also show", others.map(([other, i]) => ({ value: i, label: short(other.title, 30), on: false })), set("others")));
      }
      if (charts.curves.some((curve) => curve.low.some((v) => v !== null))) {
        controls.append(boxes("", [{ value: "on", label: "95 % bands", on: state.bands }], (value) => {
          state.bands = value.has("on");
          draw();
        }));
      }
    }
    for (const name of ["residuals", "predicted"]) {
      const key = make("div", { className: "legend" });
      elements[name].before(key);
      legend(key, onD ? [...ramp].map(([D, look]) => ({ label: `D ${count(D)}`, ...look })) : shades.size > 1 ? byP(shades) : []);
    }
    draw();
  }

  // The rows to show, each with its look.
  function rows(charts, state, levels) {
    const points = charts.points;
    return points.loss.map((_, i) => i).map((i) => {
      const P = points.P ? points.P[i] : null;
      const D = levels.curves.length ? levels.near(points.D[i]) : null;
      const look = levels.onD ? levels.ramp.get(D) : levels.shades.get(P) || scalelab.look(0);
      return { i, P, D, look };
    }).filter(({ P, D }) => (P === null || !levels.shades.size || state.P.has(P)) && (D === null || state.D.has(D)));
  }

  function about(charts, i) {
    const points = charts.points;
    return ["N", "P", "D", "C", "U", "X", "R", "lr", "B"].filter((v) => points[v] && points[v][i] !== null)
      .map((v) => `${v} ${count(points[v][i], 4)}`).join(", ");
  }

  function markers(charts, found, x, y, title = "", hollow = false) {
    const points = charts.points;
    return {
      x: found.map(({ i }) => x[i]),
      y: found.map(({ i }) => y[i]),
      type: "scatter",
      mode: "markers",
      marker: {
        color: found.map(({ look }) => look.colour),
        symbol: found.map(({ look }) => (hollow ? `${look.marker}-open` : look.marker)),
        size: found.map(({ look }) => (found.length > 150 ? 6 : 8) * (look.scale || 1)),
        opacity: found.length > 150 ? 0.75 : 1,
        line: { width: hollow ? 1.5 : 0 },
      },
      text: found.map(({ i }) => `${title}${about(charts, i)}<br>measured ${points.loss[i].toFixed(4)}, law ${points.predicted[i].toFixed(4)}` +
        ` (${points.residual[i] >= 0 ? "+" : ""}${points.residual[i].toFixed(2)} %)`),
      hoverinfo: "text",
    };
  }

  function loss(element, index, state, levels) {
    const shown = [index, ...state.others];
    const traces = [];
    for (const [rank, at] of shown.entries()) {
      const charts = groups[at].charts;
      const mine = at === index ? levels : levelsOf(charts);
      const wanted = at === index ? state : { P: state.P, D: new Set(mine.curves) };
      const title = rank ? `${scalelab.escape(short(groups[at].title, 60))}<br>` : "";
      for (const curve of charts.curves) {
        if ((curve.P !== null && mine.shades.size > 1 && !wanted.P.has(curve.P)) || (curve.D !== null && !wanted.D.has(curve.D))) continue;
        const look = mine.onD ? mine.ramp.get(curve.D) : mine.shades.get(curve.P) || scalelab.look(0);
        if (state.bands && curve.low.every((v, i) => v !== null && curve.high[i] !== null)) {
          traces.push({
            x: [...curve.x, ...[...curve.x].reverse()],
            y: [...curve.high, ...[...curve.low].reverse()],
            type: "scatter", mode: "lines", fill: "toself", fillcolor: `${look.colour}/0.13`, line: { width: 0, color: look.colour }, hoverinfo: "skip",
          });
        }
        const [low, high] = charts.measured;
        const inside = curve.x.map((x) => x >= low * 0.999 && x <= high * 1.001);
        const text = curve.x.map((x, i) => `${title}law, ${charts.over} ${count(x)}` + (curve.P === null ? "" : `, P ${curve.P}`) +
          (curve.D === null ? "" : `, D ${count(curve.D)}`) + `<br>loss ${interval(curve.y[i], curve.low[i], curve.high[i], (v) => v.toFixed(4))}`);
        const base = { x: curve.x, type: "scatter", mode: "lines", text, hoverinfo: "text" };
        traces.push({ ...base, y: curve.y.map((y, i) => (inside[i] && inside[i + 1] && inside[i - 1] ? null : y)), line: { color: look.colour, width: 1.2, dash: "dash" }, opacity: 0.8 });
        traces.push({ ...base, y: curve.y.map((y, i) => (inside[i] ? y : null)), line: { color: look.colour, width: 1.9, dash: DASHES[rank % DASHES.length] } });
      }
      traces.push(markers(charts, rows(charts, wanted, mine), charts.points[charts.over], charts.points.loss, title, rank > 0));
    }
    const spans = shown.map((at) => groups[at].charts.measured);
    const [low, high] = [Math.min(...spans.map((s) => s[0])) / 1.3, Math.max(...spans.map((s) => s[1])) * 1.6];
    const charts = groups[index].charts;
    const form = charts.over === "C" ? (v) => scalelab.format.number(v, 3) : count;
    scalelab.chart(element, traces, {
      xaxis: { ...scalelab.logAxis(low, high, form, element.clientWidth < 500 ? 5 : 9), title: { text: scalelab.escape(charts.label) } },
      yaxis: { title: { text: scalelab.escape(charts.lossLabel) } },
    });
  }

  function residuals(element, charts, state, levels) {
    const over = charts.points.N ? "N" : charts.over || Object.keys(charts.points)[0];
    const found = rows(charts, state, levels);
    const x = charts.points[over];
    const known = x.filter((v) => v !== null);
    const most = element.clientWidth < 500 ? 4 : 6;
    const worst = Math.max(...charts.points.residual.map(Math.abs));
    scalelab.chart(element, [markers(charts, found, x, charts.points.residual)], {
      xaxis: { ...scalelab.logAxis(Math.min(...known) / 1.3, Math.max(...known) * 1.3, count, most), title: { text: scalelab.escape(over === "N" ? charts.sizeLabel : charts.label) } },
      yaxis: { title: { text: "predicted over measured, %" }, ...(worst < 1e-3 ? { range: [-1.5e-3, 1.5e-3] } : {}) },
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0, layer: "below", line: { color: "--muted", width: 1.2 } }],
    });
  }

  function predicted(element, charts, state, levels) {
    const found = rows(charts, state, levels);
    const both = [...charts.points.loss, ...charts.points.predicted];
    const [low, high] = [Math.min(...both), Math.max(...both)];
    const margin = 0.04 * (high - low || 1);
    const range = [low - margin, high + margin];
    scalelab.chart(element, [
      { x: range, y: range, type: "scatter", mode: "lines", line: { color: "--muted", width: 1.2 }, hoverinfo: "skip" },
      markers(charts, found, charts.points.loss, charts.points.predicted),
    ], {
      xaxis: { title: { text: "measured loss" }, range, nticks: 7 },
      yaxis: { title: { text: "predicted loss" }, range, nticks: 7 },
    });
  }
})();
