/** Playground: a streamed conversation with one endpoint or two side by side, and its requests as code. */

import { $, $$, csrfToken, set, templateTexts } from "./dom.js";
import { count, duration, number, speed } from "./format.js";

const play = $("[data-play]");
const endpoints = JSON.parse($("#endpoints").textContent); // online ones come first
const models = JSON.parse($("#models").textContent);
const words = templateTexts("[data-words]", "word");
const [model, temperature, maxTokens, system, message] = [
  "#model",
  "#temperature",
  "#max-tokens",
  "#system",
  "#message",
].map(selector => $(selector));
const trouble = $("[data-trouble]");
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

/* ---- state that the address holds: model, layout, targets */
const address = new URLSearchParams(location.search);
const name = address.get("model");
const named =
  models.find(known => known.name === name) ?? models.find(known => known.aliases.includes(name));
if (named) model.value = named.name;
let laneCount = address.has("right") ? 2 : 1;
const targets = [address.get("left") ?? "", address.get("right") ?? ""];
function remember() {
  const now = new URLSearchParams({ model: model.value });
  if (targets[0]) now.set("left", targets[0]);
  if (laneCount === 2) now.set("right", targets[1]);
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
  /** Offer the endpoints of the selected model as targets. */
  offerTargets() {
    const able = models
      .find(known => known.name === model.value)
      .endpoints.map(index => endpoints[index]);
    const option = ({ id, name, online }) =>
      make("option", {
        value: id,
        textContent: online ? name : words.offline.replace("{name}", name),
      });
    this.select.replaceChildren(
      make("option", { value: "", textContent: words.router }),
      ...able.map(option),
    );
    this.select.value = targets[this.at];
    if (this.select.selectedIndex < 0) this.select.value = targets[this.at] = "";
    this.label.textContent = laneCount === 1 ? words.one : [words.left, words.right][this.at];
    this.log.setAttribute("aria-label", this.label.textContent);
  }
  figures(perSecond, first, tokens) {
    set($("[data-speed]", this.element), speed(perSecond));
    set($("[data-first]", this.element), duration(first));
    set($("[data-tokens]", this.element), count(tokens));
  }
  /** Copy the conversation of another lane, so that both send the same messages. */
  copyFrom(other) {
    this.clear();
    this.turns = [...other.turns];
    this.log.append(...[...other.log.children].map(child => child.cloneNode(true)));
  }
  clear() {
    this.turns = [];
    this.log.replaceChildren();
    this.figures(null, null, null);
  }
}
const lanes = [new Lane(0), new Lane(1)];
const usedLanes = () => lanes.slice(0, laneCount);
function arrange() {
  $("[data-lanes]").replaceChildren(...usedLanes().map(lane => lane.element));
  $("[data-lanes]").classList.toggle("lanes-two", laneCount === 2);
  usedLanes().forEach(lane => lane.offerTargets());
  $$("[data-layout]").forEach(button =>
    button.setAttribute("aria-pressed", String(Number(button.dataset.layout) === laneCount)),
  );
  $("[data-send-one]").hidden = laneCount === 2;
  $("[data-send-both]").hidden = laneCount === 1;
  remember();
}
model.addEventListener("change", arrange);
$$("[data-layout]").forEach(button =>
  button.addEventListener("click", () => {
    if (running) return;
    laneCount = Number(button.dataset.layout);
    if (laneCount === 2 && lanes[1].turns.length !== lanes[0].turns.length)
      lanes[1].copyFrom(lanes[0]);
    arrange();
  }),
);

/* ---- pictures, as data URLs */
let pictures = []; // { name, url }
function showPictures() {
  const list = $("[data-pictures]");
  list.hidden = !pictures.length;
  list.replaceChildren(
    ...pictures.map(picture => {
      const label = words.remove.replace("{name}", picture.name);
      const remove = make("button", {
        type: "button",
        className: "btn btn-quiet btn-icon",
        textContent: "×",
        title: label,
      });
      remove.setAttribute("aria-label", label);
      remove.addEventListener("click", () => {
        pictures = pictures.filter(other => other !== picture);
        showPictures();
      });
      return make("li", {}, make("img", { src: picture.url, alt: picture.name }), remove);
    }),
  );
}
const read = file =>
  new Promise((done, failed) => {
    const reader = Object.assign(new FileReader(), {
      onload: () => done({ name: file.name, url: reader.result }),
      onerror: failed,
    });
    reader.readAsDataURL(file);
  });
const total = (items, size) => items.reduce((sum, item) => sum + size(item), 0);
const imageLength = turns =>
  total(
    turns.flatMap(({ content }) => (Array.isArray(content) ? content : [])),
    part => part.image_url?.url.length ?? 0,
  );
$("[data-pick]").addEventListener("change", async event => {
  const files = [...event.target.files].filter(file => file.type.startsWith("image/"));
  event.target.value = "";
  const before =
    total(pictures, picture => picture.url.length) +
    Math.max(...lanes.map(lane => imageLength(lane.turns)));
  const bytes = total(files, file => file.size) + before * 0.75; // base64 has 4 characters for 3 bytes
  if (bytes > Number(play.dataset.maxImageBytes)) return showProblem(words.large);
  showProblem("");
  pictures.push(...(await Promise.all(files.map(read))));
  showPictures();
});

/* ---- body of the request */
const valid = () => [temperature, maxTokens].every(field => field.reportValidity()); // the browser shows the reason
function body(turns) {
  const fields = {
    model: model.value,
    messages: [
      ...(system.value.trim() ? [{ role: "system", content: system.value }] : []),
      ...turns,
    ],
  };
  if (temperature.value !== "") fields.temperature = Number(temperature.value);
  if (maxTokens.value !== "") fields.max_tokens = Number(maxTokens.value);
  return { ...fields, stream: true, stream_options: { include_usage: true } };
}
function turn() {
  const text = message.value;
  if (!pictures.length) return { role: "user", content: text };
  const parts = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return { role: "user", content: [{ type: "text", text }, ...parts] };
}

/* ---- one response */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}
const problem = async response => {
  const data = await response.json().catch(() => null);
  return data?.error?.message ?? data?.error ?? `HTTP ${response.status}`;
};

// The record of a request. Its speed includes the wait for the first token.
async function fetchRecord(id) {
  const response = await fetch(`/api/requests/${id}`, {
    headers: { Accept: "application/json" },
  }).catch(() => null);
  return response?.ok ? response.json().catch(() => null) : null;
}

async function sendIn(lane, stop) {
  const question = make("p", { className: "question" });
  const last = lane.turns[lane.turns.length - 1].content;
  question.append(
    ...(Array.isArray(last)
      ? [
          last[0].text,
          ...last
            .slice(1)
            .map(part => make("img", { src: part.image_url.url, alt: words.picture })),
        ]
      : [last]),
  );
  const [thought, text, by] = [
    make("p", { className: "thought", hidden: true }),
    make("p", { className: "reply caret" }),
    make("p", { className: "by" }),
  ];
  lane.log.append(question, make("div", { className: "response" }, thought, text, by));
  const follow = () => (lane.log.scrollTop = lane.log.scrollHeight);
  follow();
  lane.figures(null, null, null);

  const sent = performance.now();
  const figures = {
    endpoint: "",
    id: "",
    first: null,
    tokens: 0,
    perSecond: null,
    took: 0,
    note: "",
  };
  const showFigures = (exact = null) => {
    const seconds = (performance.now() - sent) / 1000;
    figures.tokens = exact ?? figures.tokens;
    if (figures.first !== null && figures.tokens > 1 && seconds > 0.05)
      figures.perSecond = figures.tokens / seconds;
    lane.figures(
      figures.perSecond,
      figures.first === null ? null : figures.first - sent,
      figures.tokens || null,
    );
  };
  const addDelta = delta => {
    const reasoning = delta.reasoning_content ?? delta.reasoning ?? "";
    const content = delta.content ?? "";
    if (!reasoning && !content) return;
    figures.first ??= performance.now();
    figures.tokens += 1;
    const atEnd = lane.log.scrollHeight - lane.log.scrollTop - lane.log.clientHeight < 40;
    if (reasoning) {
      thought.hidden = false;
      thought.append(reasoning);
    }
    text.append(content);
    if (atEnd) follow();
    showFigures();
  };
  try {
    const headers = { "Content-Type": "application/json", "X-CSRFToken": csrfToken() };
    if (lane.select.value) headers["X-RouterDash-Endpoint"] = lane.select.value;
    const response = await fetch("/api/playground/chat", {
      method: "POST",
      headers,
      body: JSON.stringify(body(lane.turns)),
      signal: stop,
    });
    figures.endpoint = decodeURIComponent(response.headers.get("x-routerdash-endpoint") ?? "");
    figures.id = response.headers.get("x-request-id") ?? "";
    if (!response.ok) throw new RequestError(await problem(response));
    let isComplete = false;
    let usage = null;
    for await (const data of events(response)) {
      if (data === "[DONE]") isComplete = true;
      else {
        const event = JSON.parse(data);
        if (event.error) throw new RequestError(event.error.message ?? words.broke);
        usage = event.usage ?? usage;
        addDelta(event.choices?.[0]?.delta ?? {});
      }
    }
    showFigures(usage?.completion_tokens ?? null);
    if (!isComplete) throw new RequestError(words.broke);
  } catch (error) {
    if (error.name === "AbortError") figures.note = words.stopped;
    else figures.failed = error instanceof RequestError ? error.message : words.away;
  }
  text.classList.remove("caret");
  figures.took = performance.now() - sent;
  const known = /^[0-9a-f-]{36}$/.test(figures.id);
  const record = known && !figures.failed && !figures.note ? await fetchRecord(figures.id) : null;
  if (record) {
    [figures.perSecond, figures.tokens, figures.took] = [
      record.tokens_per_second,
      record.output_tokens,
      record.duration_ms,
    ];
    lane.figures(record.tokens_per_second, record.first_token_ms, record.output_tokens);
  }
  if (figures.failed)
    by.before(make("p", { className: "st st-error wrap", textContent: figures.failed }));
  const facts = [
    figures.endpoint,
    figures.tokens ? words.tokens.replace("{count}", count(figures.tokens)) : "",
    duration(figures.took),
    figures.note,
  ];
  by.append(facts.filter(Boolean).join(" · "));
  if (known)
    by.append(" · ", make("a", { href: `/requests/${figures.id}`, textContent: words.details }));
  figures.by = by;
  // Servers refuse an empty response, and two questions in a row.
  figures.content = text.textContent;
  if (figures.content) lane.turns.push({ role: "assistant", content: figures.content });
  else lane.turns.pop();
  follow();
  return figures;
}
class RequestError extends Error {}

/* ---- sending and stopping */
let running = null;
function showProblem(text) {
  trouble.hidden = !text;
  trouble.textContent = text;
}
function compare([left, right]) {
  if (!left?.perSecond || !right?.perSecond || left.failed || right.failed) return;
  const [fast, slow] = left.perSecond >= right.perSecond ? [left, right] : [right, left];
  const factor = fast.perSecond / slow.perSecond;
  if (factor >= 1.05)
    fast.by.append(
      " ",
      make("span", {
        className: "tag",
        textContent: words.faster.replace("{factor}", number(factor, 1)),
      }),
    );
}
async function send() {
  if (running || !message.value.trim() || !valid()) return;
  showProblem("");
  const [next, typed, shown] = [turn(), message.value, pictures];
  const sending = usedLanes();
  sending.forEach(lane => lane.turns.push(next));
  message.value = "";
  pictures = [];
  showPictures();
  running = new AbortController();
  showRunning(true);
  const responses = await Promise.all(sending.map(lane => sendIn(lane, running.signal)));
  running = null;
  showRunning(false);
  compare(responses);
  if (!message.value && responses.every(({ content }) => !content)) {
    message.value = typed; // to be sent again, or copied as code
    pictures = [...shown, ...pictures];
    showPictures();
  }
  message.focus();
}
function showRunning(isRunning) {
  $("[data-send]").hidden = isRunning;
  $("[data-stop]").hidden = !isRunning;
  $$("[data-layout], [data-clear], #model").forEach(control => (control.disabled = isRunning));
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
$("[data-clear]").addEventListener("click", () => lanes.forEach(lane => lane.clear()));

/* ---- the request as code, with the public address and a placeholder for the API key */
const without = (name, value) =>
  name === "url" && String(value).startsWith("data:") ? "data:image/…" : value;
const url = `${play.dataset.publicUrl}/v1`;
const indent = (text, by) => text.replaceAll("\n", `\n${by}`);
const python = value => {
  const written = JSON.stringify(value, without, 4);
  // Replace the constants of JSON, but not inside of strings.
  return written.replace(
    /"(?:[^"\\]|\\.)*"|\btrue\b|\bfalse\b|\bnull\b/g,
    token => ({ true: "True", false: "False", null: "None" })[token] ?? token,
  );
};
const code = {
  curl: fields =>
    [
      `curl -N ${url}/chat/completions \\`,
      `  -H "Authorization: Bearer $ROUTERDASH_API_KEY" \\`,
      `  -H "Content-Type: application/json" \\`,
      `  -d '${JSON.stringify(fields, without, 2).replaceAll("'", `'\\''`)}'`,
    ].join("\n"),
  python: ({ stream_options: _, ...fields }) => `from openai import OpenAI

client = OpenAI(base_url="${url}", api_key="sk_…")
stream = client.chat.completions.create(
${Object.entries(fields)
  .map(([name, value]) => `    ${name}=${indent(python(value), "    ")},`)
  .join("\n")}
)
for chunk in stream:
  if chunk.choices:
      print(chunk.choices[0].delta.content or "", end="", flush=True)`,
  javascript: ({ stream_options: _, ...fields }) => `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${url}", apiKey: "sk_…" });
const stream = await client.chat.completions.create(${JSON.stringify(fields, without, 2)});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");`,
};
$$("[data-copy-as]").forEach(button =>
  button.addEventListener("click", async () => {
    if (!valid()) return;
    const turns = lanes[0].turns.slice(0, -1); // the last question, without its response
    const typed = message.value.trim() ? [turn()] : [];
    const field = $("#code");
    const all = [...(typed.length ? lanes[0].turns : turns), ...typed];
    field.value = code[button.dataset.copyAs](
      body(all.length ? all : [{ role: "user", content: "…" }]),
    );
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
