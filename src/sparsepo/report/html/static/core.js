// What all sections share: finding elements, opening packed data, the theme, which task and methods are shown.
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const opened = new Map();
// Packed data are gzip in base64, opened once, when first asked for; nothing here touches the network.
function load(task, name) {
  const key = `${task}/${name}`;
  if (!opened.has(key)) opened.set(key, unpack(one(`script[data-blob="${CSS.escape(key)}"]`).textContent));
  return opened.get(key);
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// A control of a section: what was chosen, and what to do when it changes.
const control = (section, name) => one(`[data-control="${name}"]`, section);
function onChange(section, names, act) {
  for (const name of names) control(section, name)?.addEventListener("input", act);
}

// Acts once, when the section comes near the window: a page of many tasks draws only what is looked at.
function whenSeen(section, act) {
  const watcher = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      watcher.disconnect();
      act();
    }
  }, { rootMargin: "300px" });
  watcher.observe(section);
}

const themed = [];
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const other = theme === "dark" ? "light" : "dark";
  one("#theme").textContent = other === "dark" ? "Dark" : "Light";
  one("#theme").setAttribute("aria-label", `Use ${other} colours`);
  for (const act of themed) act();
}
const isDark = () => document.documentElement.dataset.theme === "dark";
const system = window.matchMedia("(prefers-color-scheme: dark)");
setTheme(system.matches ? "dark" : "light");
system.addEventListener("change", () => setTheme(system.matches ? "dark" : "light"));
one("#theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));

one("#task")?.addEventListener("input", (event) => {
  for (const article of all("article")) article.hidden = article.dataset.task !== event.target.value;
});

// The number as it stands in the page: four significant digits, no more than were stored.
const shown = (value) => (value === null || value === undefined ? "-" : String(Number(value.toPrecision(4))));
