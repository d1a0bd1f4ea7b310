// The token viewer: two runs side by side on one pair, a colour for each token, exact values for the one pointed at.
const SIGNED = new Set(["log_ratio", "weighted_log_ratio", "values"]);

class Tokens {
  constructor(article) {
    this.task = article.dataset.task;
    this.section = one('[data-part="tokens"]', article);
    this.runs = all("[data-side]", this.section);
    const methods = all("option", control(this.runs[1], "run"));
    const masked = methods.findLastIndex((option) => option.value.startsWith("sparsepo"));
    control(this.runs[0], "run").selectedIndex = Math.min(1, methods.length - 1);
    control(this.runs[1], "run").selectedIndex = masked < 0 ? methods.length - 1 : masked;
    onChange(this.section, ["pair", "value", "scale"], () => this.view());
    for (const run of this.runs) onChange(run, ["run"], () => { this.view(); this.top(); });
    onChange(this.section, ["mask", "part"], () => this.top());
    whenSeen(this.section, () => { this.view(); this.top(); });
  }

  chosen(side) {
    const select = control(side, "run");
    return load(this.task, `tokens/${select.value}`);
  }

  async view() {
    const { pairs } = await load(this.task, "index");
    const place = Number(control(this.section, "pair").value);
    const name = control(this.section, "value").value;
    const runs = (await Promise.all(this.runs.map((side) => this.chosen(side)))).map((found) => found.pairs[place]);
    one("[data-prompt]", this.section).textContent = pairs[place].prompt || "(no prompt)";
    const tops = runs.map((run) => Math.max(...["chosen", "rejected"].flatMap((part) => (run[part][name] ?? [0]).map(Math.abs))));
    if (control(this.section, "scale").value === "common") tops.fill(Math.max(...tops));
    this.runs.forEach((side, at) => {
      const view = one("[data-view]", side);
      if (!(name in runs[at].chosen)) {
        view.replaceChildren(element("p", { className: "quiet", textContent: "This run has no masks." }));
        return;
      }
      const parts = ["chosen", "rejected"].flatMap((part, which) => [
        element("h3", { textContent: `${part}, reward ${shown(runs[at].reward[which])}` }),
        this.response(pairs[place][part], runs[at][part], name, tops[at] || 1, `${part} response`),
      ]);
      view.replaceChildren(...parts, this.legend(name, tops[at] || 1));
    });
  }

  response(text, values, name, top, label) {
    const line = element("div", { className: "tokens", dir: "auto", role: "group", ariaLabel: label });
    text.tokens.forEach((token, at) => {
      const value = values[name][at];
      const colour = SIGNED.has(name) ? (value < 0 ? "--down" : "--up") : "--even";
      const cell = element("span", { textContent: token.replaceAll("\n", "↵\n") || "∅", tabIndex: at ? -1 : 0 });
      cell.style.background = `color-mix(in srgb, var(${colour}) ${Math.min(75, (75 * Math.abs(value)) / top).toFixed(1)}%, transparent)`;
      cell.title = shown(value);
      cell.dataset.value = value;
      if (text.planted?.[at]) cell.className = "planted";
      for (const event of ["mouseenter", "focus", "click"]) cell.addEventListener(event, () => this.read(token, values, at));
      line.append(cell);
    });
    line.addEventListener("keydown", (event) => this.move(event));
    return line;
  }

  // Arrow keys move within a response, so that the page has one stop a response and not one a token.
  move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = step > 0 ? event.target.nextElementSibling : event.target.previousElementSibling;
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  read(token, values, at) {
    const names = Object.fromEntries(all("option", control(this.section, "value")).map((option) => [option.value, option.textContent]));
    const said = Object.keys(names).filter((name) => name in values).map((name) => `${names[name].split(/[:,]/)[0].replace(" (nats)", "")} ${shown(values[name][at])}`);
    one("[data-readout]", this.section).textContent = `“${token}”   ${said.join("   ")}`;
  }

  legend(name, top) {
    const bar = element("i");
    const ends = SIGNED.has(name) ? ["color-mix(in srgb, var(--down) 75%, transparent)", "transparent", "color-mix(in srgb, var(--up) 75%, transparent)"] : ["transparent", "color-mix(in srgb, var(--even) 75%, transparent)"];
    bar.style.background = `linear-gradient(to right, ${ends.join(", ")})`;
    return element("p", { className: "legend" }, SIGNED.has(name) ? shown(-top) : "0", bar, shown(top));
  }

  async top() {
    const mask = control(this.section, "mask").value;
    const part = control(this.section, "part").value;
    const runs = await Promise.all(this.runs.map((side) => this.chosen(side)));
    all("[data-top]", this.section).forEach((place, at) => {
      const rows = runs[at].top[mask]?.[part] ?? [];
      const said = runs[at].top[mask] ? "No token occurs three times." : "This run has no masks.";
      place.replaceChildren(rows.length ? this.ranking(rows) : element("p", { className: "quiet", textContent: said }));
    });
  }

  ranking(rows) {
    const heads = ["token", "mean weight", "occurs"].map((text) => element("th", { textContent: text, scope: "col" }));
    const lines = rows.map(([token, mean, count]) => {
      const bar = element("span", { className: "share", ariaHidden: "true" });
      bar.style.width = `${(60 * mean) / (rows[0][1] || 1)}px`;
      return element("tr", {}, element("td", { textContent: token }), element("td", {}, bar, ` ${shown(mean)}`), element("td", { textContent: count, className: "number" }));
    });
    return element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines));
  }
}

for (const article of all("article")) new Tokens(article);
