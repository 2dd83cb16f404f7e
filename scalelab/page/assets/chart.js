// Data, number formats, colours and charts, shared by the scripts of a page: window.scalelab.
(function () {
  "use strict";

  const scalelab = (window.scalelab = window.scalelab || {});
  const block = document.getElementById("scalelab-data");
  scalelab.data = block ? JSON.parse(block.textContent) : {};

  // Formats: as scalelab/units.py writes numbers.
  // Python's format ".{digits}g": 0.5, 1e-05, 1e+16.
  function general(value, digits) {
    const [mantissa, power] = value.toExponential(digits - 1).split("e");
    const exponent = value === 0 ? 0 : Number(power);
    if (exponent >= -4 && exponent < digits) return trimmed(value.toFixed(Math.max(0, digits - 1 - exponent)));
    return `${trimmed(mantissa)}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  function trimmed(text) {
    return text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text;
  }
  const significant = (value, digits) => general(value, digits).replace(/e([+-])0?/, (_, sign) => (sign === "-" ? "e-" : "e"));
  const plain = (value, digits) => (Math.round(value) >= 10 ** digits ? String(Math.round(value)) : general(value, digits));
  function count(value, digits = 3) {
    if (Math.abs(value) >= 1e15) return significant(value, digits);
    for (const [factor, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= factor * 0.9995) return plain(value / factor, digits) + letter;
    }
    return general(value, digits);
  }
  function bytes(value, digits = 3) {
    for (const [power, unit] of [[4, "TiB"], [3, "GiB"], [2, "MiB"], [1, "KiB"]]) {
      if (value >= 1024 ** power * (1 - 0.5 / 10 ** digits)) return plain(value / 1024 ** power, digits) + " " + unit;
    }
    return plain(value, digits) + " B";
  }
  function seconds(value, digits = 3) {
    if (value >= 60) {
      const whole = Math.round(value);
      const two = (n) => String(n).padStart(2, "0");
      if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
      return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
    }
    for (const [factor, unit] of [[1, "s"], [1e-3, "ms"]]) {
      if (value >= factor * (1 - 0.5 / 10 ** digits)) return plain(value / factor, digits) + " " + unit;
    }
    return plain(value * 1e6, digits) + " µs";
  }
  function ends(low, high, form = (x) => significant(x, 4)) {
    const open = (x) => x === null || x === undefined || !Number.isFinite(x);
    if (open(low)) return open(high) ? "open" : "below " + form(high);
    if (open(high)) return "above " + form(low);
    return form(low) + (low < 0 ? " to " : "–") + form(high);
  }
  function interval(value, low, high, form = (x) => significant(x, 4)) {
    const missing = (x) => x === null || x === undefined;
    return missing(low) && missing(high) ? form(value) : `${form(value)} (${ends(low, high, form)})`;
  }
  scalelab.format = { count, bytes, seconds, interval, ends, number: (x, digits = 4) => significant(x, digits) };

  // Colours and markers by rank. "--series-1" is a colour of the theme, "--series-1/0.2" the same at an opacity of
  // 0.2; `chart` puts in the colours of the theme that is shown.
  scalelab.colours = [0, 1, 2, 3, 4, 5, 6].map((i) => `--series-${i}`);
  scalelab.markers = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x"];
  scalelab.look = function (rank) {
    const at = rank % scalelab.colours.length;
    // A triangle of one size looks smaller than a circle of the same.
    return { colour: scalelab.colours[at], marker: scalelab.markers[at], scale: scalelab.markers[at].startsWith("triangle") ? 1.3 : 1 };
  };
  scalelab.colour = function (token) {
    const [name, opacity] = token.split("/");
    const style = getComputedStyle(document.documentElement);
    const [, share] = name.split("@"); // "--ramp@0.3" is a colour of a ramp from 0 to 1
    if (share !== undefined) return ramp(Number(share), style);
    const value = style.getPropertyValue(name).trim();
    if (opacity === undefined || !/^#[0-9a-f]{6}$/i.test(value)) return value;
    const part = (i) => parseInt(value.slice(i, i + 2), 16);
    return `rgba(${part(1)}, ${part(3)}, ${part(5)}, ${opacity})`;
  };
  function ramp(share, style) {
    const stops = [0, 1, 2, 3, 4].map((i) => style.getPropertyValue(`--ramp-${i}`).trim());
    const at = Math.min(3, Math.floor(share * 4));
    const rest = share * 4 - at;
    const part = (colour, i) => parseInt(colour.slice(i, i + 2), 16);
    const mixed = [1, 3, 5].map((i) => Math.round(part(stops[at], i) * (1 - rest) + part(stops[at + 1], i) * rest));
    return `#${mixed.map((v) => v.toString(16).padStart(2, "0")).join("")}`;
  }
  // Plotly reads tags such as <b> and <a> in text: names from the data must not.
  scalelab.escape = (text) =>
    String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function coloured(value) {
    if (typeof value === "string") return value.startsWith("--") ? scalelab.colour(value) : value;
    if (Array.isArray(value)) return value.length && typeof value[0] === "number" ? value : value.map(coloured);
    if (value && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item)]));
    }
    return value;
  }

  function merged(base, more) {
    const made = { ...base };
    for (const [key, value] of Object.entries(more || {})) {
      const both = made[key] && value && [made[key], value].every((v) => typeof v === "object" && !Array.isArray(v));
      made[key] = both ? merged(made[key], value) : value;
    }
    return made;
  }

  // Titles of axes in lines of at most `most` characters, which fit beside the axis.
  function wrapped(text, most) {
    const lines = [""];
    for (const word of text.split(" ")) {
      const last = lines[lines.length - 1];
      if (last && last.length + word.length >= most) lines.push(word);
      else lines[lines.length - 1] = last ? `${last} ${word}` : word;
    }
    return lines.join("<br>");
  }

  function themed(layout, element) {
    const axis = {
      gridcolor: "--line",
      linecolor: "--line",
      zerolinecolor: "--line",
      tickcolor: "--line",
      ticks: "outside",
      ticklen: 4,
      showline: true,
      zeroline: false,
      automargin: true,
      exponentformat: "power",
      title: { standoff: 10, font: { size: 13 } },
      tickfont: { size: 12 },
    };
    const base = {
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: "--text" },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 56, r: 12, t: 12, b: 48 },
      hoverlabel: { bgcolor: "--panel", bordercolor: "--line", font: { color: "--text", size: 12.5 }, align: "left", namelength: -1 },
      hovermode: "closest",
      dragmode: window.matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
      showlegend: false,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "--muted", activecolor: "--accent" },
    };
    const made = merged(base, layout);
    for (const name of Object.keys(made)) {
      if (!/^[xy]axis\d*$/.test(name)) continue;
      made[name] = merged(axis, made[name]);
      const length = name[0] === "x" ? element.clientWidth - 90 : element.clientHeight - 70;
      if (made[name].title.text) made[name].title.text = wrapped(made[name].title.text, Math.max(16, length / 7));
    }
    for (const name of ["xaxis", "yaxis"]) made[name] = made[name] || axis;
    return coloured(made);
  }

  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    toImageButtonOptions: { format: "svg", filename: "scalelab" },
  };
  const drawn = new Map(); // element -> traces and layout, in tokens of the theme

  function draw(element) {
    const { traces, layout } = drawn.get(element);
    return window.Plotly.react(element, coloured(traces), themed(layout, element), config);
  }

  // Draw a chart, or update the one that the element has. Colours may be tokens such as "--accent".
  scalelab.chart = function (element, traces, layout) {
    drawn.set(element, { traces, layout });
    return draw(element);
  };
  // Fit the charts to their elements again, after a change of the layout.
  scalelab.resize = function () {
    for (const element of drawn.keys()) {
      if (element.isConnected && element.offsetParent) window.Plotly.Plots.resize(element);
    }
  };
  document.addEventListener("scalelab:theme", () => {
    for (const element of drawn.keys()) {
      if (element.isConnected) draw(element);
      else drawn.delete(element);
    }
  });

  // A logarithmic axis with ticks such as 100M and 1B, at 1, 2 and 5 if the range is short. `form` writes a tick.
  scalelab.logAxis = function (low, high, form = scalelab.format.count, most = 9) {
    const at = (steps) => {
      const ticks = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        for (const step of steps) {
          const tick = step * 10 ** power;
          if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(Number(tick.toPrecision(6)));
        }
      }
      return ticks;
    };
    const choices = [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]].map(at);
    const ticks = choices.find((list) => list.length <= most) || choices[choices.length - 1].filter((_, i, all) => i % Math.ceil(all.length / most) === 0);
    return {
      type: "log",
      range: [Math.log10(low), Math.log10(high)],
      tickmode: "array",
      tickvals: ticks,
      ticktext: ticks.map((tick) => form(tick)),
      minor: { ticks: "" },
    };
  };
})();
