// The browser of samples: prompts that match the search, and what each run answered to the one chosen.
const ANSWERS_SHOWN = 200;

class Samples {
  constructor(article) {
    this.task = article.dataset.task;
    this.section = one('[data-part="samples"]', article);
    this.place = 0;
    onChange(this.section, ["kind"], () => this.start());
    onChange(this.section, ["search", "method", "order"], () => this.view());
    whenSeen(this.section, () => this.start());
  }

  async start() {
    const { kinds, shown: runs } = await load(this.task, "index");
    const kind = control(this.section, "kind")?.value ?? Object.keys(kinds)[0];
    if (!kind) {
      one("[data-count]", this.section).textContent = "Nothing was sampled.";
      return;
    }
    const found = await Promise.all(runs.map((run) => load(this.task, `${kind}/${run.run}`)));
    this.kind = kinds[kind];
    this.runs = runs.map((run, at) => ({ ...run, answers: found[at] }));
    this.place = 0;
    const orders = ["as configured", ...this.kind.columns.flatMap((name) => [`highest ${name}`, `lowest ${name}`])];
    control(this.section, "order").replaceChildren(...orders.map((text, value) => element("option", { textContent: text, value })));
    this.view();
  }

  view() {
    const wanted = control(this.section, "search").value.trim().toLowerCase();
    const method = control(this.section, "method").value;
    const runs = this.runs.filter((run) => !method || run.run.split("/")[0] === method);
    const matches = (text) => text.toLowerCase().includes(wanted);
    const places = [...this.kind.prompts.keys()].filter((at) =>
      matches(this.kind.prompts[at].prompt) || runs.some((run) => run.answers[at].some(([text]) => matches(text))));
    if (!places.includes(this.place)) this.place = places[0] ?? -1;
    const whole = this.kind.total > this.kind.prompts.length ? `, the first of ${this.kind.total}` : "";
    one("[data-count]", this.section).textContent = `${places.length} of ${this.kind.prompts.length} prompts${whole}; ${runs.length} runs, the first seed of each setting.`;
    one("[data-prompts]", this.section).replaceChildren(...places.map((at) => this.prompt(at)));
    const answers = this.place < 0 ? [] : this.answers(runs, wanted, matches);
    one("[data-answers]", this.section).replaceChildren(...answers);
  }

  prompt(at) {
    const text = this.kind.prompts[at].prompt || "(no prompt)";
    const button = element("button", { type: "button", dir: "auto", textContent: text.length > 140 ? `${text.slice(0, 140)}…` : text });
    button.setAttribute("aria-current", at === this.place);
    button.addEventListener("click", () => {
      this.place = at;
      this.view();
      one('[data-prompts] [aria-current="true"]', this.section)?.focus();
    });
    return element("li", {}, button);
  }

  answers(runs, wanted, matches) {
    const { prompt, reference } = this.kind.prompts[this.place];
    const inPrompt = matches(prompt);
    let rows = runs.flatMap((run) => run.answers[this.place].map(([text, temperature, numbers]) => ({ label: run.label, text, temperature, numbers })));
    if (wanted && !inPrompt) rows = rows.filter((row) => matches(row.text));
    const temperatures = new Set(rows.map((row) => row.temperature));
    const order = Number(control(this.section, "order").value);
    if (order) {
      const column = (order - 1) >> 1;
      const sign = order % 2 ? -1 : 1;
      rows.sort((a, b) => sign * ((a.numbers[column] ?? -sign * Infinity) - (b.numbers[column] ?? -sign * Infinity)));
    }
    const cards = rows.slice(0, ANSWERS_SHOWN).map((row) => {
      const scores = this.kind.columns.map((name, at) => `${name} ${shown(row.numbers[at])}`).filter((text) => !text.endsWith(" -"));
      if (temperatures.size > 1) scores.unshift(`temperature ${row.temperature}`);
      return this.card(row.label, scores.join(" · "), row.text, wanted);
    });
    const head = [this.card("Prompt", "", prompt, wanted)];
    if (reference) head.push(this.card("Reference", "", reference, wanted));
    const left = rows.length - cards.length;
    return [...head, ...cards, ...(left ? [element("p", { className: "quiet", textContent: `and ${left} more; choose a method` })] : [])];
  }

  card(title, scores, text, wanted) {
    const head = element("div", {}, element("strong", { textContent: title }), " ", element("span", { className: "scores", textContent: scores }));
    return element("div", { className: "answer" }, head, element("p", { dir: "auto" }, ...this.marked(text, wanted)));
  }

  // The text with what was searched for marked; always as text, never as HTML.
  marked(text, wanted) {
    const parts = [];
    let from = 0;
    for (let at; wanted && (at = text.toLowerCase().indexOf(wanted, from)) >= 0; from = at + wanted.length) {
      parts.push(text.slice(from, at), element("mark", { textContent: text.slice(at, at + wanted.length) }));
    }
    return [...parts, text.slice(from)];
  }
}

for (const article of all("article")) new Samples(article);
