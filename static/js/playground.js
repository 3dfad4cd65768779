/* The playground: a conversation with one target or two side by side, streamed, and what it would be as code. */
(() => {
  "use strict";
  const { $, $$, set, number, count, speed, duration, token, NOTHING } = window.RouterDash;
  const play = $("[data-play]");
  if (!play) return;
  const endpoints = JSON.parse($("#endpoints").textContent); // those that answer come first
  const models = JSON.parse($("#models").textContent);
  const words = Object.fromEntries($$("[data-word]", $("[data-words]").content).map(it => [it.dataset.word, it.textContent]));
  const [model, temperature, maxTokens, system, message] = ["#model", "#temperature", "#max-tokens", "#system", "#message"].map(it => $(it));
  const trouble = $("[data-trouble]");
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };

  /* ---- state that the address holds: model, layout, targets */
  const address = new URLSearchParams(location.search);
  const asked = address.get("model");
  const named = models.find(it => it.name === asked) ?? models.find(it => it.aliases.includes(asked));
  if (named) model.value = named.name;
  let wanted = address.has("right") ? 2 : 1;
  const targets = [address.get("left") ?? "", address.get("right") ?? ""];
  function remember() {
    const now = new URLSearchParams({ model: model.value });
    if (targets[0]) now.set("left", targets[0]);
    if (wanted === 2) now.set("right", targets[1]);
    history.replaceState(null, "", `?${now}`);
  }

  /* ---- lanes */
  class Lane {
    constructor(at) {
      this.at = at;
      this.turns = [];
      this.element = $("[data-lane]").content.firstElementChild.cloneNode(true);
      this.label = $("label", this.element);
      this.select = $("[data-target]", this.element);
      this.log = $("[data-log]", this.element);
      this.select.id = `target-${at}`;
      this.label.htmlFor = this.select.id;
      this.select.addEventListener("change", () => {
        targets[at] = this.select.value;
        remember();
      });
    }
    offer() {
      const able = models.find(it => it.name === model.value).endpoints.map(at => endpoints[at]);
      const option = it => make("option", { value: it.id, textContent: it.online ? it.name : words.offline.replace("{name}", it.name) });
      this.select.replaceChildren(make("option", { value: "", textContent: words.router }), ...able.map(option));
      this.select.value = targets[this.at];
      if (this.select.selectedIndex < 0) this.select.value = targets[this.at] = "";
      this.label.textContent = wanted === 1 ? words.one : [words.left, words.right][this.at];
      this.log.setAttribute("aria-label", this.label.textContent);
    }
    figures(perSecond, first, tokens) {
      set($("[data-speed]", this.element), speed(perSecond));
      set($("[data-first]", this.element), duration(first));
      set($("[data-tokens]", this.element), count(tokens));
    }
    /** What the other one did, so that both are asked the same. */
    hear(other) {
      this.clear();
      this.turns = [...other.turns];
      this.log.append(...[...other.log.children].map(it => it.cloneNode(true)));
    }
    clear() {
      this.turns = [];
      this.log.replaceChildren();
      this.figures(null, null, null);
    }
  }
  const lanes = [new Lane(0), new Lane(1)];
  const used = () => lanes.slice(0, wanted);
  function arrange() {
    $("[data-lanes]").replaceChildren(...used().map(it => it.element));
    $("[data-lanes]").classList.toggle("lanes-two", wanted === 2);
    used().forEach(it => it.offer());
    $$("[data-layout]").forEach(it => it.setAttribute("aria-pressed", String(Number(it.dataset.layout) === wanted)));
    $("[data-send-one]").hidden = wanted === 2;
    $("[data-send-both]").hidden = wanted === 1;
    remember();
  }
  model.addEventListener("change", arrange);
  $$("[data-layout]").forEach(button =>
    button.addEventListener("click", () => {
      if (running) return;
      wanted = Number(button.dataset.layout);
      if (wanted === 2 && lanes[1].turns.length !== lanes[0].turns.length) lanes[1].hear(lanes[0]);
      arrange();
    }),
  );

  /* ---- pictures, as data URLs */
  let pictures = []; // { name, url }
  function showPictures() {
    const list = $("[data-pictures]");
    list.hidden = !pictures.length;
    list.replaceChildren(
      ...pictures.map(it => {
        const label = words.remove.replace("{name}", it.name);
        const remove = make("button", { type: "button", className: "btn btn-quiet btn-icon", textContent: "×", title: label });
        remove.setAttribute("aria-label", label);
        remove.addEventListener("click", () => {
          pictures = pictures.filter(other => other !== it);
          showPictures();
        });
        return make("li", {}, make("img", { src: it.url, alt: it.name }), remove);
      }),
    );
  }
  const read = file =>
    new Promise((done, failed) => {
      const reader = Object.assign(new FileReader(), { onload: () => done({ name: file.name, url: reader.result }), onerror: failed });
      reader.readAsDataURL(file);
    });
  const inTurns = turns => turns.flatMap(it => (Array.isArray(it.content) ? it.content : [])).reduce((sum, it) => sum + (it.image_url?.url.length ?? 0), 0);
  $("[data-pick]").addEventListener("change", async event => {
    const files = [...event.target.files].filter(it => it.type.startsWith("image/"));
    event.target.value = "";
    const before = pictures.reduce((sum, it) => sum + it.url.length, 0) + Math.max(...lanes.map(it => inTurns(it.turns)));
    const all = files.reduce((sum, it) => sum + it.size, 0) + before * 0.75;
    if (all > Number(play.dataset.maxImageBytes)) return complain(words.large);
    complain("");
    pictures.push(...(await Promise.all(files.map(read))));
    showPictures();
  });

  /* ---- what is sent */
  const valid = () => [temperature, maxTokens].every(it => it.reportValidity()); // the browser says what is wrong
  function body(turns) {
    const asked = { model: model.value, messages: [...(system.value.trim() ? [{ role: "system", content: system.value }] : []), ...turns] };
    if (temperature.value !== "") asked.temperature = Number(temperature.value);
    if (maxTokens.value !== "") asked.max_tokens = Number(maxTokens.value);
    return { ...asked, stream: true, stream_options: { include_usage: true } };
  }
  function turn() {
    const text = message.value;
    if (!pictures.length) return { role: "user", content: text };
    const parts = pictures.map(it => ({ type: "image_url", image_url: { url: it.url } }));
    return { role: "user", content: [{ type: "text", text }, ...parts] };
  }

  /* ---- one answer */
  async function* events(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  }
  const problem = async answer => {
    const told = await answer.json().catch(() => null);
    return told?.error?.message ?? told?.error ?? `HTTP ${answer.status}`;
  };

  // What the figures count of an answer. Its speed is over the whole of it, the wait for its first token among it.
  async function recorded(id) {
    const answer = await fetch(`/api/requests/${id}`, { headers: { Accept: "application/json" } }).catch(() => null);
    return answer?.ok ? answer.json().catch(() => null) : null;
  }

  async function ask(lane, stop) {
    const mine = make("p", { className: "me" });
    const last = lane.turns[lane.turns.length - 1].content;
    mine.append(...(Array.isArray(last) ? [last[0].text, ...last.slice(1).map(it => make("img", { src: it.image_url.url, alt: words.picture }))] : [last]));
    const [thought, text, by] = [make("p", { className: "thought", hidden: true }), make("p", { className: "said-it caret" }), make("p", { className: "by" })];
    lane.log.append(mine, make("div", { className: "it" }, thought, text, by));
    const follow = () => (lane.log.scrollTop = lane.log.scrollHeight);
    follow();
    lane.figures(null, null, null);

    const sent = performance.now();
    const figures = { endpoint: "", id: "", first: null, tokens: 0, perSecond: null, took: 0, note: "" };
    const tell = (exact = null) => {
      const seconds = (performance.now() - sent) / 1000;
      figures.tokens = exact ?? figures.tokens;
      if (figures.first !== null && figures.tokens > 1 && seconds > 0.05) figures.perSecond = figures.tokens / seconds;
      lane.figures(figures.perSecond, figures.first === null ? null : figures.first - sent, figures.tokens || null);
    };
    const piece = delta => {
      const thinks = delta.reasoning_content ?? delta.reasoning ?? "";
      const says = delta.content ?? "";
      if (!thinks && !says) return;
      figures.first ??= performance.now();
      figures.tokens += 1;
      const atEnd = lane.log.scrollHeight - lane.log.scrollTop - lane.log.clientHeight < 40;
      if (thinks) {
        thought.hidden = false;
        thought.append(thinks);
      }
      text.append(says);
      if (atEnd) follow();
      tell();
    };
    try {
      const headers = { "Content-Type": "application/json", "X-CSRFToken": token() };
      if (lane.select.value) headers["X-RouterDash-Endpoint"] = lane.select.value;
      const answer = await fetch("/api/playground/chat", { method: "POST", headers, body: JSON.stringify(body(lane.turns)), signal: stop });
      figures.endpoint = decodeURIComponent(answer.headers.get("x-routerdash-endpoint") ?? "");
      figures.id = answer.headers.get("x-request-id") ?? "";
      if (!answer.ok) throw new Told(await problem(answer));
      let whole = false;
      let usage = null;
      for await (const data of events(answer)) {
        if (data === "[DONE]") whole = true;
        else {
          const event = JSON.parse(data);
          if (event.error) throw new Told(event.error.message ?? words.broke);
          usage = event.usage ?? usage;
          piece(event.choices?.[0]?.delta ?? {});
        }
      }
      tell(usage?.completion_tokens ?? null);
      if (!whole) throw new Told(words.broke);
    } catch (error) {
      if (error.name === "AbortError") figures.note = words.stopped;
      else figures.failed = error instanceof Told ? error.message : words.away;
    }
    text.classList.remove("caret");
    figures.took = performance.now() - sent;
    const known = /^[0-9a-f-]{36}$/.test(figures.id);
    const told = known && !figures.failed && !figures.note ? await recorded(figures.id) : null;
    if (told) {
      [figures.perSecond, figures.tokens, figures.took] = [told.tokens_per_second, told.output_tokens, told.duration_ms];
      lane.figures(told.tokens_per_second, told.first_token_ms, told.output_tokens);
    }
    if (figures.failed) by.before(make("p", { className: "st st-error wrap", textContent: figures.failed }));
    const facts = [figures.endpoint, figures.tokens ? words.tokens.replace("{count}", count(figures.tokens)) : "", duration(figures.took), figures.note];
    by.append(facts.filter(Boolean).join(" · "));
    if (known) by.append(" · ", make("a", { href: `/requests/${figures.id}`, textContent: words.details }));
    figures.by = by;
    // Servers refuse an answer without a text, and two questions in a row.
    figures.said = text.textContent;
    if (figures.said) lane.turns.push({ role: "assistant", content: figures.said });
    else lane.turns.pop();
    follow();
    return figures;
  }
  class Told extends Error {}

  /* ---- sending and stopping */
  let running = null;
  function complain(text) {
    trouble.hidden = !text;
    trouble.textContent = text;
  }
  function compare([left, right]) {
    if (!left?.perSecond || !right?.perSecond || left.failed || right.failed) return;
    const [fast, slow] = left.perSecond >= right.perSecond ? [left, right] : [right, left];
    const factor = fast.perSecond / slow.perSecond;
    if (factor >= 1.05) fast.by.append(" ", make("span", { className: "tag", textContent: words.faster.replace("{factor}", number(factor, 1)) }));
  }
  async function send() {
    if (running || !message.value.trim() || !valid()) return;
    complain("");
    const [next, typed, shown] = [turn(), message.value, pictures];
    const asking = used();
    asking.forEach(it => it.turns.push(next));
    message.value = "";
    pictures = [];
    showPictures();
    running = new AbortController();
    busy(true);
    const told = await Promise.all(asking.map(it => ask(it, running.signal)));
    running = null;
    busy(false);
    compare(told);
    if (!message.value && told.every(it => !it.said)) {
      message.value = typed; // to be asked again, or copied as code
      pictures = [...shown, ...pictures];
      showPictures();
    }
    message.focus();
  }
  function busy(is) {
    $("[data-send]").hidden = is;
    $("[data-stop]").hidden = !is;
    $$("[data-layout], [data-clear], #model").forEach(it => (it.disabled = is));
  }
  $("[data-compose]").addEventListener("submit", event => {
    event.preventDefault();
    send();
  });
  message.addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      send();
    }
  });
  $("[data-stop]").addEventListener("click", () => running?.abort());
  $("[data-clear]").addEventListener("click", () => lanes.forEach(it => it.clear()));

  /* ---- the same as code, by the address and with a key of one's own */
  const without = (name, value) => (name === "url" && String(value).startsWith("data:") ? "data:image/…" : value);
  const url = `${play.dataset.publicUrl}/v1`;
  const indent = (text, by) => text.replaceAll("\n", `\n${by}`);
  const python = value => {
    const written = JSON.stringify(value, without, 4);
    // only words that stand where a value can, never those within a text
    return written.replace(/"(?:[^"\\]|\\.)*"|\btrue\b|\bfalse\b|\bnull\b/g, it => ({ true: "True", false: "False", null: "None" })[it] ?? it);
  };
  const code = {
    curl: asked =>
      [`curl -N ${url}/chat/completions \\`, `  -H "Authorization: Bearer $ROUTERDASH_API_KEY" \\`, `  -H "Content-Type: application/json" \\`, `  -d '${JSON.stringify(asked, without, 2).replaceAll("'", `'\\''`)}'`].join("\n"),
    python: ({ stream_options: _, ...asked }) => `from openai import OpenAI

client = OpenAI(base_url="${url}", api_key="sk_…")
stream = client.chat.completions.create(
${Object.entries(asked).map(([name, value]) => `    ${name}=${indent(python(value), "    ")},`).join("\n")}
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)`,
    javascript: ({ stream_options: _, ...asked }) => `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${url}", apiKey: "sk_…" });
const stream = await client.chat.completions.create(${JSON.stringify(asked, without, 2)});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");`,
  };
  $$("[data-copy-as]").forEach(button =>
    button.addEventListener("click", async () => {
      if (!valid()) return;
      const turns = lanes[0].turns.slice(0, -1); // the last question, without its answer
      const typed = message.value.trim() ? [turn()] : [];
      const field = $("#code");
      const all = [...(typed.length ? lanes[0].turns : turns), ...typed];
      field.value = code[button.dataset.copyAs](body(all.length ? all : [{ role: "user", content: "…" }]));
      field.hidden = false;
      field.select();
      try {
        await navigator.clipboard.writeText(field.value);
      } catch {
        document.execCommand("copy");
      }
      set($("[data-copied]"), words.copied);
    }),
  );

  arrange();
})();
