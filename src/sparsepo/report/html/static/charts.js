// The figures: Plotly draws what the page brings; here are the colours of the theme, the methods shown, and saving.
const OPTIONS = {
  displaylogo: false,
  responsive: true,
  showSendToCloud: false, // a button that uploads the figure
  modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d"],
};

class Charts {
  constructor(article) {
    this.task = article.dataset.task;
    this.hidden = new Set();
    this.drawn = new Map();
    this.article = article;
    this.buttons = all("button[data-method]", article);
    for (const button of this.buttons) {
      button.addEventListener("click", () => this.toggle([button.dataset.method], !this.hidden.has(button.dataset.method)));
    }
    const methods = [...new Set(this.buttons.map((button) => button.dataset.method))];
    for (const button of all("button[data-methods]", article)) {
      button.addEventListener("click", () => this.toggle(methods, button.dataset.methods === "none"));
    }
    themed.push(() => this.redraw());
    this.frontier(one('[data-part="frontier"]', article));
    this.dynamics(one('[data-part="dynamics"]', article));
  }

  toggle(methods, hide) {
    for (const method of methods) hide ? this.hidden.add(method) : this.hidden.delete(method);
    for (const button of this.buttons) button.setAttribute("aria-pressed", !this.hidden.has(button.dataset.method));
    this.redraw();
  }

  redraw() {
    for (const [plot, figure] of this.drawn) this.draw(plot, figure);
  }

  // A figure's traces and layout in the colours of the theme, without the methods that are switched off.
  coloured(figure, dark) {
    const text = JSON.stringify(figure).replace(/#[0-9A-Fa-f]{6}/g, (colour) => (dark && DARK[colour.toUpperCase()]) || colour);
    const made = JSON.parse(text);
    for (const trace of made.data) trace.visible = !this.hidden.has(trace.meta.method);
    return made;
  }

  draw(plot, figure) {
    this.drawn.set(plot, figure);
    const made = this.coloured(figure, isDark());
    return Plotly.react(plot, made.data, made.layout, OPTIONS);
  }

  saving(section, figures) {
    for (const button of all("[data-export]", section)) {
      button.addEventListener("click", () => {
        for (const [name, figure] of figures()) {
          const made = this.coloured(figure, false);
          const layout = { ...made.layout, paper_bgcolor: "#FFFFFF", title: { text: name.title, font: { size: 12 } } };
          const file = `${this.task}-${name.file}`.replace(/[^\w.=-]+/g, "_");
          const size = { width: name.width, height: name.width * 0.65, scale: button.dataset.export === "png" ? 3 : 1 };
          Plotly.downloadImage({ data: made.data, layout }, { format: button.dataset.export, filename: file, ...size });
        }
      });
    }
  }

  frontier(section) {
    if (!section) return;
    const plot = one("[data-plot]", section);
    const draw = async () => this.draw(plot, await load(this.task, `frontier/${control(section, "kl").value}`));
    onChange(section, ["kl"], draw);
    whenSeen(section, draw);
    this.saving(section, () => [[{ file: "frontier", title: "", width: 800 }, this.drawn.get(plot)]]);
  }

  dynamics(section) {
    const place = one("[data-panels]", section);
    let shown = [];
    const draw = async () => {
      const chosen = control(section, "quantity");
      if (!chosen.value) return;
      const panels = await load(this.task, `dynamics/${chosen.value}`);
      for (const plot of all(".plot", place)) this.drop(plot);
      const label = chosen.selectedOptions[0].textContent;
      place.replaceChildren(...panels.map((panel) => this.panel(panel, label)));
      shown = panels.map((panel) => [{ file: `${chosen.value}-${panel.title}`, title: panel.title, width: 480 }, panel.figure]);
      all(".plot", place).forEach((plot, at) => this.draw(plot, panels[at].figure));
    };
    onChange(section, ["quantity"], draw);
    whenSeen(section, draw);
    this.saving(section, () => shown);
  }

  panel(panel, label) {
    const plot = element("div", { className: "plot", role: "img", ariaLabel: `${label} over steps, ${panel.title}` });
    return element("figure", {}, element("figcaption", { textContent: panel.title }), plot);
  }

  drop(plot) {
    this.drawn.delete(plot);
    Plotly.purge(plot);
  }
}

for (const article of all("article")) new Charts(article);
