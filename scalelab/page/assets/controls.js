// Elements of a page: controls, legends, and the choice of a group. Text from the data becomes text nodes only.
(function () {
  "use strict";

  const scalelab = window.scalelab;
  const SVG = "http://www.w3.org/2000/svg";
  let last = 0;

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element && name !== "list") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  // The marker of a level, as in the charts, with a colour of the theme.
  const SHAPES = {
    circle: "M6 1.5a4.5 4.5 0 1 0 .01 0z",
    square: "M2 2h8v8H2z",
    diamond: "M6 .8 11.2 6 6 11.2.8 6z",
    "triangle-up": "M6 1 11.4 10.4H.6z",
    "triangle-down": "M6 11 .6 1.6h10.8z",
    cross: "M4 1h4v3h3v4H8v3H4V8H1V4h3z",
    x: "M3 1 6 4l3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3-3-3z",
    line: "M0 5h12v2H0z",
    dash: "M0 5h4v2H0zM7 5h4v2H7z",
    star: "M6 .3 7.5 4.3l4.2.2-3.3 2.6 1.1 4.1L6 8.9l-3.5 2.3 1.1-4.1L.3 4.5l4.2-.2z",
  };
  function swatch(colour, marker = "square") {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 12 12");
    svg.setAttribute("class", "swatch");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", SHAPES[marker] || SHAPES.square);
    const paint = () => path.setAttribute("fill", scalelab.colour(colour));
    paint();
    document.addEventListener("scalelab:theme", paint);
    svg.append(path);
    return svg;
  }

  // Boxes to tick: items are {value, label, colour, marker, on}. `changed` gets the set of ticked values.
  function boxes(legend, items, changed) {
    const set = new Set(items.filter((item) => item.on !== false).map((item) => item.value));
    const field = make("fieldset", {}, ...(legend ? [make("legend", {}, legend)] : []));
    for (const item of items) {
      const box = make("input", { type: "checkbox", checked: set.has(item.value) });
      box.addEventListener("change", () => {
        if (box.checked) set.add(item.value);
        else set.delete(item.value);
        changed(set);
      });
      const label = make("label", {}, box);
      if (item.colour) label.append(swatch(item.colour, item.marker));
      label.append(item.label);
      field.append(label);
    }
    return field;
  }

  function select(label, items, changed, value) {
    const list = make("select");
    for (const item of items) list.append(make("option", { value: String(item.value) }, item.label));
    if (value !== undefined) list.value = String(value);
    list.addEventListener("change", () => changed(list.value));
    return make("label", {}, make("span", { className: "muted" }, label), list);
  }

  function slider(label, { min, max, step, value, form }, changed) {
    last += 1;
    const shown = make("output", { id: `slider-${last}` }, form(value));
    const input = make("input", { type: "range", min, max, step, value });
    input.setAttribute("aria-describedby", shown.id);
    input.addEventListener("input", () => {
      shown.textContent = form(Number(input.value));
      changed(Number(input.value));
    });
    return make("label", {}, make("span", { className: "muted" }, label), input, shown);
  }

  // What the colours and lines of a chart mean: items are {label, colour, marker}.
  function legend(element, items) {
    element.replaceChildren(
      ...items.map((item) => make("span", {}, swatch(item.colour, item.marker), item.label)),
    );
  }

  function save(name, text, type) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = make("a", { href: url, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  // Levels of P in a list of rows, each with its colour and marker: the same ones everywhere on the page.
  function looks(levels) {
    const sorted = [...new Set(levels.filter((level) => level !== null && level !== undefined))].sort((a, b) => a - b);
    const every = scalelab.data.P || sorted;
    // As in the figures, a power of two has its own look, whatever other levels there are.
    const powers = [...every, ...sorted].every((level) => [1, 2, 4, 8, 16, 32, 64].includes(level));
    const rank = (level, i) => (powers ? Math.log2(level) : every.includes(level) ? every.indexOf(level) : i);
    return new Map(sorted.map((level, i) => [level, scalelab.look(rank(level, i))]));
  }

  function byP(map) {
    return [...map].map(([P, look]) => ({ value: P, label: `P = ${P}`, colour: look.colour, marker: look.marker }));
  }

  // A long name, its middle left out.
  function short(text, longest = 40) {
    const letters = [...text];
    return letters.length > longest ? `${letters.slice(0, Math.floor(longest * 0.65)).join("")}…${letters.slice(-Math.floor(longest * 0.3)).join("")}` : text;
  }

  scalelab.ui = { short, make, swatch, boxes, select, slider, legend, save, looks, byP };

  // The group that the page shows. Parts of other groups are hidden; charts are drawn when they are first seen.
  const drawers = new Map(); // group -> functions that draw its charts
  scalelab.onGroup = (group, draw) => drawers.set(group, [...(drawers.get(group) || []), draw]);
  scalelab.showGroup = function (group) {
    for (const part of document.querySelectorAll(".group")) part.hidden = Number(part.dataset.group) !== group;
    for (const draw of drawers.get(group) || []) draw();
    drawers.delete(group);
    document.dispatchEvent(new CustomEvent("scalelab:group", { detail: group }));
  };
})();
