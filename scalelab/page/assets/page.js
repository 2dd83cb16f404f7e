// The frame of a page: theme and navigation, and the explorer where there is one.
(function () {
  "use strict";

  const scalelab = window.scalelab;
  const root = document.documentElement;
  const button = document.getElementById("theme");

  function show(theme) {
    root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(theme === "dark"));
    document.dispatchEvent(new CustomEvent("scalelab:theme", { detail: theme }));
  }
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  show(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => show(dark.matches ? "dark" : "light"));
  button.addEventListener("click", () => show(root.dataset.theme === "dark" ? "light" : "dark"));
  let before = root.dataset.theme;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.classList.add("printing");
    show("light");
    scalelab.resize();
  });
  window.addEventListener("afterprint", () => {
    root.classList.remove("printing");
    show(before);
    scalelab.resize();
  });

  const links = new Map([...document.querySelectorAll(".top nav a")].map((a) => [a.hash.slice(1), a]));
  const seen = new Set();
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
      const first = [...links.keys()].find((id) => seen.has(id));
      for (const [id, link] of links) {
        if (id === first) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-60px 0px -55% 0px" },
  );
  for (const id of links.keys()) watcher.observe(document.getElementById(id));

  groups(scalelab.data.groups || []);
  downloads(scalelab.data.sources || [], scalelab.data.groups || []);
  for (const region of document.querySelectorAll(".scalelab > div")) {
    if (region.querySelector("table")) region.tabIndex = region.scrollWidth > region.clientWidth ? 0 : -1;
  }

  function groups(list) {
    if (!list.length) return;
    scalelab.showGroup(0);
    if (list.length === 1) return;
    const items = list.map((group, i) => ({ value: i, label: scalelab.ui.short(group.title, 60) }));
    const choice = scalelab.ui.select("Group", items, (value) => scalelab.showGroup(Number(value)), 0);
    choice.className = "choice";
    button.before(choice);
  }

  function downloads(sources, list) {
    const place = document.querySelector('[data-controls="downloads"]');
    if (!place) return;
    const add = (label, save) => {
      const made = scalelab.ui.make("button", { type: "button" }, label);
      made.addEventListener("click", save);
      place.append(made);
    };
    sources.forEach((source, i) => {
      const name = sources.length > 1 ? `runs-${i + 1}.csv` : "runs.csv";
      add(sources.length > 1 ? `Runs of ${scalelab.ui.short(source.name)} as CSV` : "Runs as CSV", () => scalelab.ui.save(name, source.csv, "text/csv"));
    });
    for (const group of list) {
      if (!group.fit) continue;
      const label = list.length > 1 ? `Fit of ${scalelab.ui.short(group.title)} as JSON` : "Fit as JSON";
      add(label, () => scalelab.ui.save(`${group.slug}.json`, group.fit, "application/json"));
    }
  }

  const explorer = document.getElementById("explorer");
  if (explorer && scalelab.data.explorer && scalelab.explorer) {
    scalelab.explorer(explorer.querySelector(".explorer") || explorer, scalelab.data.explorer);
  }
})();
