// The chart of the explorer: loss over N and P with the limits, or loss over one variable for laws without N or P.
(function () {
  "use strict";

  const scalelab = window.scalelab;
  const COLUMNS = 72; // of the grid of losses
  const ROWS = 37;
  const LOOK = {
    memory: { color: "--series-3", dash: "solid" },
    ttft: { color: "--text", dash: "dash" },
    tpot: { color: "--series-4", dash: "dot" },
  };
  // Fill from low to high loss; the lowest loss has the strongest colour.
  const FILL = {
    light: [[0, "#6da9d6"], [0.25, "#9cc6e5"], [0.5, "#c4ddf0"], [0.75, "#e1eef8"], [1, "#f7fbfe"]],
    dark: [[0, "#2f6ea3"], [0.25, "#28557c"], [0.5, "#213f5a"], [0.75, "#1c2d3d"], [1, "#181e25"]],
  };

  const spaced = (low, high, count) => Array.from({ length: count }, (_, i) => low * (high / low) ** (i / (count - 1)));
  const count = (value) => scalelab.format.count(value);

  // Distance between contours: 1, 2 or 5 times a power of ten, at most sixteen of them.
  function stepOf(low, high) {
    const raw = (high - low) / 16;
    const power = 10 ** Math.floor(Math.log10(raw));
    return power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  }

  // Ends of the axis of N: the runs, the setting and, if not too far, the limits.
  function sizes(fit, state, lines) {
    const seen = fit.ranges.N || [state.N, state.N];
    const near = Object.values(lines).map((line) => line[0][0]).filter((N) => N > 0 && N < 100 * seen[1]);
    const high = Math.max(8 * seen[1], 1.6 * state.N, ...near.map((N) => 1.6 * N));
    return [Math.min(seen[0] / 2, state.N / 1.6), high];
  }

  function limitTraces(found, form, low, high) {
    const traces = [];
    const feasible = found.streams.map((P, i) => [Math.min(...Object.values(found.lines).map((line) => line[i][0])), P]);
    const inside = (N) => Math.min(Math.max(N, low), high);
    const edge = [...feasible.map(([N, P]) => [inside(N), P]), ...feasible.map(([, P]) => [high, P]).reverse()];
    if (feasible.some(([N]) => N < high)) {
      traces.push({
        type: "scatter",
        mode: "lines",
        x: edge.map(([N]) => N),
        y: edge.map(([, P]) => P),
        fill: "toself",
        fillcolor: "rgba(0,0,0,0)",
        fillpattern: { shape: "/", fgcolor: "--muted/0.55", bgcolor: "rgba(0,0,0,0)", size: 8, solidity: 0.12 },
        line: { width: 0 },
        hoverinfo: "skip",
        name: "over a limit",
      });
    }
    for (const [name, line] of Object.entries(found.lines)) {
      const shown = line.filter(([N]) => N > 0);
      if (!shown.some(([N]) => N > low && N < high)) continue;
      traces.push({
        type: "scatter",
        mode: "lines",
        x: shown.map(([N]) => N),
        y: shown.map(([, P]) => P),
        line: { ...LOOK[name], width: 2.5 },
        name: form(name),
        hoverinfo: "name",
      });
    }
    return traces;
  }

  const marker = (x, y, name, look, hover) => ({
    type: "scatter",
    mode: "markers",
    x: [].concat(x),
    y: [].concat(y),
    name,
    marker: look,
    cliponaxis: false,
    hovertemplate: `${hover}<extra></extra>`,
  });

  // Levels of the contours where they leave the top of the plot, not closer than their text is wide.
  function levelLabels(x, top, first, step, width) {
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const ends = [x[0], x[x.length - 1]].map(Math.log10);
    const places = [];
    for (let i = 0; i + 1 < x.length; i++) {
      const [a, b] = [top[i], top[i + 1]];
      if (!Number.isFinite(a) || !Number.isFinite(b)) continue;
      const start = Math.ceil((Math.min(a, b) - first) / step);
      for (let k = start; first + k * step < Math.max(a, b); k++) {
        const level = first + k * step;
        places.push([Math.log10(x[i]) + ((level - a) / (b - a)) * Math.log10(x[i + 1] / x[i]), level, k]);
      }
    }
    const wide = ((14 + 7 * digits) / width) * (ends[1] - ends[0]); // of a label, in log10 N
    const every = (n) => places.filter(([at, , k]) => k % n === 0 && at + wide / 2 < ends[1]);
    const apart = (list) => list.every(([at], i) => i === 0 || at - list[i - 1][0] >= wide);
    return every([1, 2, 4, 5, 10].find((n) => apart(every(n))) ?? 20).map(([at, level]) => ({
      x: at,
      y: 1,
      xref: "x",
      yref: "paper",
      yanchor: "bottom",
      text: level.toFixed(digits),
      showarrow: false,
      font: { size: 11, color: "--muted" },
    }));
  }

  function contour(data, state, found, form, width) {
    const fit = data.fits[state.fit];
    const [low, high] = sizes(fit, state, found.lines);
    const most = Math.max(...found.streams, state.P);
    const x = spaced(low, high, COLUMNS);
    const y = spaced(1, most, ROWS);
    const point = Object.fromEntries(fit.variables.map((name) => [name, state[name]]));
    const z = y.map((P) => x.map((N) => scalelab.law.loss(fit.law, fit.params, { ...point, N, P })));
    const finite = z.flat().filter(Number.isFinite);
    const ends = [Math.min(...finite), Math.max(...finite)];
    const step = stepOf(...ends);
    const at = (N, P, loss) => `N ${count(N)}, P ${Number(P.toPrecision(2))}<br>loss ${loss.toFixed(4)}`;
    const traces = [
      {
        type: "contour",
        x,
        y,
        z: z.map((row) => row.map((loss) => (Number.isFinite(loss) ? loss : null))),
        text: z.map((row, j) => row.map((loss, i) => at(x[i], y[j], loss))),
        hovertemplate: "%{text}<extra></extra>",
        colorscale: FILL[document.documentElement.dataset.theme] || FILL.light,
        contours: {
          start: Math.ceil(ends[0] / step) * step,
          end: ends[1],
          size: step,
          showlabels: false, // they would cover runs and limits: the levels are written above the plot
        },
        line: { color: "--muted/0.7", width: 0.8 },
        showscale: false,
        showlegend: false,
      },
      ...limitTraces(found, form, low, high),
    ];
    if (fit.runs.length) {
      const look = { symbol: "circle", size: 7, color: "--panel", line: { color: "--text", width: 1.4 } };
      const runs = marker(fit.runs.map(([N]) => N), fit.runs.map(([, P]) => P), "runs of the fit", look, "run: N %{text}, P %{y}");
      traces.push({ ...runs, text: fit.runs.map(([N]) => count(N)) });
    }
    const outline = { color: "--panel", width: 1.5 };
    if (found.best && found.best.N <= high && found.best.N >= low) {
      const { N, P, loss } = found.best;
      const look = { symbol: "star", size: 17, color: "--series-2", line: outline };
      traces.push(marker(N, P, "lowest loss within the limits", look, `lowest loss within the limits<br>${at(N, P, loss)}`));
    }
    const here = scalelab.law.loss(fit.law, fit.params, point);
    const look = { symbol: "diamond", size: 14, color: "--series-5", line: { color: "--text", width: 1.5 } };
    traces.push(marker(state.N, state.P, "this setting", look, `this setting<br>${at(state.N, state.P, here)}`));
    const ticks = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024].filter((P) => P <= most);
    const labels = levelLabels(x, z[ROWS - 1], Math.ceil(ends[0] / step) * step, step, width);
    return {
      traces,
      annotations: labels,
      xaxis: { ...scalelab.logAxis(low, high, count, 6), title: { text: "parameters N" }, showgrid: false },
      yaxis: {
        type: "log",
        range: [0, Math.log10(most)],
        tickmode: "array",
        tickvals: ticks,
        ticktext: ticks.map(String),
        title: { text: "parallel streams P" },
        showgrid: false,
      },
      title: "Loss over N and P, nats per token",
    };
  }

  // Loss over one variable with its interval.
  function curve(data, state, found, form) {
    const fit = data.fits[state.fit];
    const name = fit.variables.includes("N") ? "N" : fit.variables[0];
    const seen = fit.ranges[name] || [state[name], state[name]];
    const [low, high] =
      name === "N" ? sizes(fit, state, found.lines) : [Math.min(seen[0] / 2, state[name] / 1.6), Math.max(8 * seen[1], 1.6 * state[name])];
    const x = spaced(low, high, COLUMNS);
    const point = Object.fromEntries(fit.variables.map((each) => [each, state[each]]));
    const losses = x.map((value) => scalelab.law.evaluate(fit, { ...point, [name]: value }));
    const known = losses.map((loss, i) => ({ ...loss, x: x[i] })).filter((loss) => Number.isFinite(loss.value));
    const traces = [];
    if (known.every((loss) => Number.isFinite(loss.low) && Number.isFinite(loss.high) && loss.low !== null)) {
      traces.push({
        type: "scatter",
        mode: "lines",
        x: [...known.map((loss) => loss.x), ...known.map((loss) => loss.x).reverse()],
        y: [...known.map((loss) => loss.low), ...known.map((loss) => loss.high).reverse()],
        fill: "toself",
        fillcolor: "--series-1/0.2",
        line: { width: 0 },
        hoverinfo: "skip",
        name: "95 % interval",
      });
    }
    traces.push({
      type: "scatter",
      mode: "lines",
      x: known.map((loss) => loss.x),
      y: known.map((loss) => loss.value),
      text: known.map((loss) => `${name} ${count(loss.x)}<br>loss ${loss.value.toFixed(4)}`),
      hovertemplate: "%{text}<extra></extra>",
      line: { color: "--series-1", width: 2.2 },
      name: "law",
    });
    const values = known.map((loss) => loss.value);
    const ends = [Math.min(...values), Math.max(...values)];
    if (name === "N") {
      for (const [metric, line] of Object.entries(found.lines)) {
        if (!(line[0][0] > low && line[0][0] < high)) continue;
        const look = { type: "scatter", mode: "lines", x: [line[0][0], line[0][0]], y: ends, hoverinfo: "name" };
        traces.push({ ...look, line: { ...LOOK[metric], width: 2.2 }, name: form(metric) });
      }
    }
    const here = scalelab.law.loss(fit.law, fit.params, point);
    const look = { symbol: "diamond", size: 13, color: "--series-5", line: { color: "--text", width: 1.5 } };
    traces.push(marker(state[name], here, "this setting", look, `this setting<br>loss ${here.toFixed(4)}`));
    return {
      traces,
      xaxis: { ...scalelab.logAxis(low, high, count, 6), title: { text: scalelab.escape(fit.labels[name] ? `${name}, ${fit.labels[name]}` : name) } },
      yaxis: { title: { text: "loss, nats per token" } },
      title: `Loss over ${name}`,
    };
  }

  // Draw the chart of a setting and return its title; empty if the page cannot evaluate the law.
  scalelab.explorerChart = function (element, data, state, found, form) {
    const fit = data.fits[state.fit];
    element.hidden = !fit.law;
    if (!fit.law) return "";
    const isMap = fit.variables.includes("N") && fit.variables.includes("P");
    const width = Math.max(element.clientWidth - 70, 200);
    const { traces, xaxis, yaxis, title, annotations = [] } = (isMap ? contour : curve)(data, state, found, form, width);
    scalelab.chart(element, traces, {
      xaxis,
      yaxis,
      annotations,
      showlegend: true,
      legend: { orientation: "h", x: 0, y: -0.16, yanchor: "top", font: { size: 12 }, itemclick: false, itemdoubleclick: false },
      margin: { l: 50, r: 12, t: 24, b: 40 },
      dragmode: false,
    });
    return title;
  };
})();
