// The charts: Vega draws the specifications of the page; here are the colours of the theme, the methods shown, and saving.
// `ast` makes Vega interpret its expressions, as the policy of the page forbids to evaluate code.
const OPTIONS = { ast: true, actions: false, renderer: "svg" };

class Charts {
  constructor(article) {
    this.task = article.dataset.task;
    this.hidden = new Set();
    this.drawn = new Map(); // place -> {spec, result}
    this.buttons = all("button[data-method]", article);
    for (const button of this.buttons) {
      button.addEventListener("click", () => this.toggle([button.dataset.method], !this.hidden.has(button.dataset.method)));
    }
    const methods = [...new Set(this.buttons.map((button) => button.dataset.method))];
    for (const button of all("button[data-methods]", article)) {
      button.addEventListener("click", () => this.toggle(methods, button.dataset.methods === "none"));
    }
    themed.push(() => [...this.drawn].forEach(([place, chart]) => this.draw(place, chart.spec)));
    this.frontier(one('[data-part="frontier"]', article));
    this.dynamics(one('[data-part="dynamics"]', article));
  }

  toggle(methods, hide) {
    for (const method of methods) hide ? this.hidden.add(method) : this.hidden.delete(method);
    for (const button of this.buttons) button.setAttribute("aria-pressed", !this.hidden.has(button.dataset.method));
    for (const { result } of this.drawn.values()) result?.view.signal("hidden", [...this.hidden]).runAsync();
  }

  // A specification in the colours of the theme, without the methods that are switched off. The buttons are its legend.
  adapted(spec, dark, legend = false) {
    const text = JSON.stringify(spec).replace(/#[0-9A-Fa-f]{6}/g, (colour) => (dark && DARK[colour]) || colour);
    const copy = JSON.parse(text, (key, value) => (key === "legend" && !legend ? null : value));
    copy.params.find((parameter) => parameter.name === "hidden").value = [...this.hidden];
    return copy;
  }

  async draw(place, spec) {
    this.drop(place);
    const chart = { spec };
    this.drawn.set(place, chart);
    const tooltip = { theme: isDark() ? "dark" : "light" };
    const result = await vegaEmbed(place, this.adapted(spec, isDark()), { ...OPTIONS, tooltip });
    if (this.drawn.get(place) !== chart) return result.finalize(); // it was drawn anew in the meantime
    chart.result = result;
    result.view.signal("hidden", [...this.hidden]).runAsync();
  }

  drop(place) {
    this.drawn.get(place)?.result?.finalize();
    this.drawn.delete(place);
  }

  saving(section, charts) {
    for (const button of all("[data-export]", section)) {
      button.addEventListener("click", () => charts().forEach((chart) => this.save(button.dataset.export, chart)));
    }
  }

  // The chart in light colours with a legend, whatever the page shows; drawn in a place of its own.
  async save(kind, { file, title, width, spec }) {
    const light = { ...this.adapted(spec, false, true), width, height: width * 0.6, background: "#FFFFFF", title };
    const { view, finalize } = await vegaEmbed(element("div"), light, OPTIONS);
    const href = await view.toImageURL(kind, kind === "png" ? 3 : 1);
    finalize();
    element("a", { href, download: `${`${this.task}-${file}`.replace(/[^\w.=-]+/g, "_")}.${kind}` }).click();
  }

  frontier(section) {
    if (!section) return;
    const place = one("[data-plot]", section);
    const draw = async () => this.draw(place, await load(this.task, `frontier/${control(section, "kl").value}`));
    onChange(section, ["kl"], draw);
    whenSeen(section, draw);
    this.saving(section, () => [{ file: "frontier", title: "", width: 700, spec: this.drawn.get(place).spec }]);
  }

  dynamics(section) {
    const grid = one("[data-panels]", section);
    let shown = [];
    const draw = async () => {
      const quantity = control(section, "quantity");
      if (!quantity.value) return;
      shown = await load(this.task, `dynamics/${quantity.value}`);
      for (const place of all(".plot", grid)) this.drop(place);
      const label = quantity.selectedOptions[0].textContent;
      grid.replaceChildren(...shown.map(({ title }) => this.panel(title, label)));
      all(".plot", grid).forEach((place, at) => this.draw(place, shown[at].spec));
    };
    onChange(section, ["quantity"], draw);
    whenSeen(section, draw);
    const file = (title) => `${control(section, "quantity").value}-${title}`;
    this.saving(section, () => shown.map(({ title, spec }) => ({ file: file(title), title, width: 420, spec })));
  }

  panel(title, label) {
    const place = element("div", { className: "plot", role: "img", ariaLabel: `${label} over steps, ${title}` });
    return element("figure", {}, element("figcaption", { textContent: title }), place);
  }
}

for (const article of all("article")) new Charts(article);
