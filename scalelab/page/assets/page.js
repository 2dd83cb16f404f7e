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
    show("light");
  });
  window.addEventListener("afterprint", () => show(before));

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

  const explorer = document.getElementById("explorer");
  if (explorer && scalelab.data.explorer && scalelab.explorer) {
    scalelab.explorer(explorer.querySelector(".explorer") || explorer, scalelab.data.explorer);
  }
})();
