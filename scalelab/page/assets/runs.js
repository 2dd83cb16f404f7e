// The section on runs: sorting and filtering of the table, loss curves, and the health of streams.
(function () {
  "use strict";

  const scalelab = window.scalelab;
  const { short, make, boxes, select, slider, looks, byP, legend } = scalelab.ui;
  const { count, number } = scalelab.format;

  for (const part of document.querySelectorAll(".source")) {
    const source = scalelab.data.sources[Number(part.dataset.source)];
    table(part);
    curves(part, source);
    health(part, source);
  }

  function table(part) {
    const element = part.querySelector("table.runs");
    const body = element.tBodies[0];
    const rows = [...body.rows];
    const heads = [...element.tHead.rows[0].cells];
    const value = (row, column) => row.cells[column].dataset.value;

    heads.forEach((head, column) => {
      const numeric = rows.every((row) => value(row, column) === "" || Number.isFinite(Number(value(row, column))));
      const button = make("button", { type: "button" }, head.textContent);
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const sign = down ? -1 : 1;
        const sorted = [...rows].sort((a, b) => {
          const [x, y] = [value(a, column), value(b, column)];
          if (x === "" || y === "") return (x === "") - (y === ""); // missing values come last
          return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y));
        });
        body.append(...sorted);
      });
    });

    const chosen = { text: "" };
    const shown = make("span", { className: "muted", role: "status" });
    function filter() {
      const words = chosen.text.toLowerCase().split(/\s+/).filter(Boolean);
      let left = 0;
      for (const row of rows) {
        const text = [...row.cells].map((cell) => cell.title || cell.textContent).join(" ").toLowerCase();
        const equal = Object.entries(chosen).every(([column, wanted]) =>
          column === "text" || wanted === "" || value(row, Number(column)) === wanted);
        row.hidden = !(equal && words.every((word) => text.includes(word)));
        left += row.hidden ? 0 : 1;
      }
      shown.textContent = left === rows.length ? `${rows.length} runs` : `${left} of ${rows.length} runs`;
    }
    const search = make("input", { type: "search", placeholder: "Filter runs", ariaLabel: "Filter runs by words" });
    search.addEventListener("input", () => {
      chosen.text = search.value;
      filter();
    });
    const controls = part.querySelector(".filters");
    controls.append(search);
    heads.forEach((head, column) => {
      if (!["n_streams", "status", "corpus", "seed"].includes(head.dataset.column)) return;
      const labels = new Map(rows.map((row) => [value(row, column), row.cells[column].title || row.cells[column].textContent]));
      labels.delete("");
      if (labels.size < 2 || labels.size > 30) return;
      const items = [...labels].sort((a, b) => a[0].localeCompare(b[0], undefined, { numeric: true }));
      const all = [{ value: "", label: "all" }, ...items.map(([key, label]) => ({ value: key, label: short(label) }))];
      controls.append(select(head.textContent, all, (wanted) => {
        chosen[column] = wanted;
        filter();
      }));
    });
    controls.append(shown);
    filter();
  }

  function smoothed(values, width) {
    const half = Math.floor(width / 2);
    return values.map((_, i) => {
      const near = values.slice(Math.max(0, i - half), i + half + 1).filter((v) => v !== null);
      return near.length ? near.reduce((a, b) => a + b, 0) / near.length : null;
    });
  }

  function curves(part, source) {
    const element = part.querySelector('[data-chart="curves"]');
    if (!element || !source.curves.length) return;
    const shades = looks(source.curves.map((run) => run.P));
    const size = (run) => run.size || run.N;
    const sizes = [...new Set(source.curves.map(size))].sort((a, b) => a - b);
    const several = new Set(source.curves.map((run) => run.D)).size > 1;
    const twin = (run) => source.curves.find((other) => other.P === 1 && size(other) === size(run) && other.seed === run.seed &&
      other.D === run.D && other.x.length === run.x.length && other.x.every((x, i) => x === run.x[i]));
    const paired = source.curves.some((run) => run.P > 1 && twin(run));
    const state = { P: new Set(shades.keys()), size: sizes.length > 1 ? String(sizes[sizes.length - 1]) : "", smooth: 9, gain: false };

    function values(run) {
      const y = smoothed(run.y, state.smooth);
      if (!state.gain) return y;
      const base = smoothed(twin(run).y, state.smooth);
      return y.map((v, i) => (v === null || base[i] === null ? null : v - base[i]));
    }

    function draw() {
      const runs = source.curves.filter((run) => state.P.has(run.P) && (state.size === "" || String(size(run)) === state.size) &&
        (!state.gain || (run.P > 1 && twin(run))));
      const traces = runs.map((run) => {
        const y = values(run);
        const about = [`P ${run.P}`, run.N ? `N ${count(run.N)}` : "", several && run.D ? `D ${count(run.D)}` : "",
          run.seed === null ? "" : `seed ${run.seed}`].filter(Boolean).join(", ");
        const told = state.gain ? "loss less that of P = 1" : "loss";
        return {
          x: run.x,
          y,
          type: "scatter",
          mode: "lines",
          line: { color: shades.get(run.P).colour, width: 1.5 },
          text: run.x.map((x, i) => `${about}<br>${count(x)} tokens: ${told} ${y[i] === null ? "unknown" : y[i].toFixed(3)}`),
          hoverinfo: "text",
        };
      });
      const high = Math.max(...runs.map((run) => Math.max(...run.x)), 1);
      const low = Math.max(Math.min(...runs.map((run) => Math.min(...run.x)), high / 2), high / 100);
      const seen = traces.flatMap((trace) => trace.y.filter((y, i) => y !== null && trace.x[i] >= high / 20));
      const [least, most] = [Math.min(...seen), Math.max(...seen)];
      const margin = 0.04 * (most - least || 1);
      const label = state.gain ? "loss less that of P = 1, nats per token" : "training loss, nats per token";
      scalelab.chart(element, traces, {
        xaxis: { ...scalelab.logAxis(low, high * 1.03, count, element.clientWidth < 500 ? 5 : 9), title: { text: "training tokens" } },
        yaxis: { title: { text: label }, ...(seen.length ? { range: [least - margin, most + margin] } : {}) },
        shapes: state.gain ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0, layer: "below", line: { color: "--muted", width: 1.2 } }] : [],
      });
    }

    const controls = part.querySelector('[data-controls="curves"]');
    controls.append(boxes("Streams", byP(shades), (set) => {
      state.P = set;
      draw();
    }));
    if (sizes.length > 1) {
      const items = [...sizes].reverse().map((n) => ({ value: n, label: `N = ${count(n)}` }));
      controls.append(select("Size", [...items, { value: "", label: "all" }], (value) => {
        state.size = value;
        draw();
      }, state.size));
    }
    controls.append(slider("Smoothing", { min: 1, max: 41, step: 2, value: state.smooth, form: (n) => (n === 1 ? "none" : `${n} points`) }, (n) => {
      state.smooth = n;
      draw();
    }));
    if (paired) {
      controls.append(boxes("", [{ value: "gain", label: "difference to P = 1 of the same seed", on: false }], (set) => {
        state.gain = set.has("gain");
        draw();
      }));
    }
    draw();
  }

  function health(part, source) {
    const runs = source.health;
    if (!runs.length) return;
    const shades = looks(runs.map((run) => run.P));
    const charts = {
      correlation: ["correlation", "correlation ρ of losses"],
      effective: ["effective", "effective streams"],
    };
    for (const [name, [field, label]] of Object.entries(charts)) {
      const element = part.querySelector(`[data-chart="${name}"]`);
      if (!element) continue;
      const known = runs.filter((run) => run[field] !== null && run.N);
      if (!known.length) {
        element.replaceWith(make("p", { className: "muted" }, "These records do not hold it."));
        continue;
      }
      const key = make("div", { className: "legend" });
      element.before(key);
      const traces = [...shades].map(([P, look]) => {
        const mine = known.filter((run) => run.P === P);
        return {
          x: mine.map((run) => run.size || run.N),
          y: mine.map((run) => run[field]),
          type: "scatter",
          mode: "markers",
          marker: { color: look.colour, symbol: look.marker, size: 8 * look.scale, line: { width: 0 } },
          text: mine.map((run) => `P ${P}, N ${count(run.N)}${run.seed === null ? "" : `, seed ${run.seed}`}<br>${label} ${number(run[field], 4)}` +
            (field === "effective" && run.weights.length ? `<br>weights ${run.weights.map((w) => w.toFixed(2)).join(", ")}` : "")),
          hoverinfo: "text",
        };
      });
      const sizes = known.map((run) => run.size || run.N);
      const [low, high] = [Math.min(...sizes) / 1.3, Math.max(...sizes) * 1.3];
      const lines = field === "correlation"
        ? [{ y: 0.99, colour: "--warning" }]
        : [...shades].map(([P, look]) => ({ y: P, colour: `${look.colour}/0.6` }));
      legend(key, [...byP(shades), { label: field === "correlation" ? "copies above this" : "all weigh the same", colour: field === "correlation" ? "--warning" : "--muted", marker: "dash" }]);
      const top = field === "correlation" ? { range: [Math.min(...known.map((run) => run[field]), 0.9) - 0.03, 1.005] } : { rangemode: "tozero" };
      scalelab.chart(element, traces, {
        xaxis: { ...scalelab.logAxis(low, high), title: { text: "N of the backbone" } },
        yaxis: { title: { text: label }, ...top },
        shapes: lines.map((line) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: line.y, y1: line.y, layer: "below", line: { color: line.colour, width: 1.2, dash: "dash" } })),
      });
    }
  }
})();
