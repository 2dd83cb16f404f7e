// Fits of tables in a served explorer: drop a CSV, choose columns, get the fit.
(function () {
  "use strict";

  const scalelab = window.scalelab;
  const shown = scalelab.explorer.shown;
  const { laws, most_bytes: mostBytes, most_rows: mostRows } = scalelab.data.refit;
  const NAMES = {
    loss: "loss", N: "parameters N", P: "streams P", D: "tokens D", C: "compute C", U: "unique tokens U",
    X: "experts X", R: "loops R", lr: "learning rate", B: "batch size B",
  };
  const make = scalelab.explorer.make;
  let file = null;
  let names = [];

  const input = make("input", { type: "file", accept: ".csv,.tsv", id: "refit-file", class: "refit-file" });
  const zone = make("label", { class: "refit-zone", for: "refit-file" }, "Fit a table: drop a CSV here, or choose a file");
  const law = make("select", { id: "refit-law" }, ...Object.keys(laws).map((name) => make("option", { value: name }, name)));
  const columns = make("div", { class: "refit-columns" });
  const button = make("button", { type: "button" }, "Fit");
  const line = make("p", { class: "refit-line", role: "status" });
  const choice = make("div", { class: "refit-choice", hidden: "" }, make("div", { class: "explorer-select" }, make("label", { for: "refit-law" }, "Law"), law), columns, button);
  shown.lawGroup.append(input, zone, choice, line);

  function say(text, wrong = false) {
    line.textContent = text;
    line.classList.toggle("wrong", wrong);
  }

  // Column names in the first line; quotes may hold the delimiter.
  function header(text) {
    const first = text.replace(/^\uFEFF/, "").split(/\r?\n/, 1)[0];
    const delimiter = ["\t", ";", ","].find((each) => first.includes(each)) || ",";
    const cells = [];
    let cell = "";
    let quoted = false;
    for (const letter of first) {
      if (letter === '"') quoted = !quoted;
      else if (letter === delimiter && !quoted) {
        cells.push(cell);
        cell = "";
      } else cell += letter;
    }
    return [...cells, cell].map((each) => each.trim()).filter(Boolean);
  }

  function showColumns() {
    const fields = ["loss", ...laws[law.value]];
    columns.replaceChildren(
      ...fields.map((field) => {
        const id = `refit-${field}`;
        const options = names.map((name) => make("option", { value: name }, name));
        const select = make("select", { id, name: field }, make("option", { value: "" }, "by its usual name"), ...options);
        return make("div", { class: "explorer-select" }, make("label", { for: id }, `Column of ${NAMES[field]}`), select);
      }),
    );
  }

  async function take(given) {
    if (!given) return;
    file = null;
    choice.hidden = true;
    if (!/\.(csv|tsv)$/i.test(given.name)) return say(`${given.name}: give a .csv or .tsv file.`, true);
    if (given.size > mostBytes) return say(`${given.name}: larger than ${scalelab.format.bytes(mostBytes)}; use scalelab fit.`, true);
    names = header(await given.slice(0, 2 ** 16).text());
    file = given;
    choice.hidden = false;
    showColumns();
    return say(`${given.name}: ${names.length} columns. Up to ${mostRows.toLocaleString("en")} rows can be fitted here.`);
  }

  async function fit() {
    const query = new URLSearchParams({ name: file.name, law: law.value });
    for (const select of columns.querySelectorAll("select")) {
      if (select.value) query.set(select.name, select.value);
    }
    button.disabled = true;
    say(`Fitting the ${law.value} law …`);
    try {
      const response = await fetch(`fit?${query}`, { method: "POST", body: file });
      const answer = response.ok ? await response.json() : { error: (await response.text()).trim() };
      if (answer.error) say(answer.error, true);
      else {
        shown.add(answer.fits);
        const notes = answer.notes.map((note) => ` Left out: ${note}.`).join("");
        say(`Fitted ${answer.fits.length === 1 ? "one group" : `${answer.fits.length} groups`} of ${file.name}.${notes}`);
      }
    } catch {
      say("The server does not answer: start scalelab explore again.", true);
    }
    button.disabled = false;
  }

  law.addEventListener("change", showColumns);
  button.addEventListener("click", fit);
  input.addEventListener("change", () => take(input.files[0]));
  for (const name of ["dragover", "dragenter"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => event.relatedTarget || zone.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
})();
