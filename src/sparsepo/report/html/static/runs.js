// The runs: a filter over their table, and what each says of itself in a window of its own.
class Runs {
  constructor(article) {
    this.task = article.dataset.task;
    const section = one('[data-part="runs"]', article);
    onChange(section, ["filter"], (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/);
      for (const row of all("tbody tr", section)) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    });
    for (const button of all("[data-details]", section)) {
      const run = button.closest("tr").dataset.run;
      button.addEventListener("click", async () => this.show(run, await load(this.task, `run/${run}`)));
    }
    one("[data-config]", section).addEventListener("click", async () =>
      this.show(`Config of ${this.task}`, await load(this.task, "config")));
  }

  show(title, parts) {
    one("#details-title").textContent = title;
    const body = parts.flatMap(([name, value]) => [
      element("h3", { textContent: name }),
      element("pre", { textContent: typeof value === "string" ? value || "(empty)" : JSON.stringify(value, null, 1) }),
    ]);
    one("#details [data-body]").replaceChildren(...body);
    one("#details").showModal();
  }
}

for (const article of all("article")) new Runs(article);
