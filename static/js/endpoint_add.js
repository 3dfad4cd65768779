/** Form that adds an endpoint: the server detects the type when an address has been typed, and on the button. */

import { $, csrfToken, set } from "./dom.js";
import { count, NOTHING } from "./format.js";

const form = $("[data-detect]");
const { cloud_type: cloud, base_url: address, api_key: key, name } = form.elements;
const kinds = JSON.parse($("#kinds").textContent);
const addresses = JSON.parse($("#addresses").textContent); // of clouds that have one for all customers
const looking = $("[data-looking]");
let lastRequest = ""; // body of the last request: address and key
let proposed = "";

function showProblem(text) {
  const place = $("[data-error-of=base_url]");
  place.replaceChildren();
  address.toggleAttribute("aria-invalid", Boolean(text));
  if (!text) return;
  const message = document.createElement("p");
  message.className = "st st-error wrap";
  message.setAttribute("role", "alert");
  message.textContent = text;
  place.append(message);
}

function modelItem(model) {
  const item = document.createElement("li");
  const label = document.createElement("span");
  const length = document.createElement("small");
  label.className = "mono";
  label.textContent = model.model_id;
  length.textContent = model.max_tokens ? count(model.max_tokens) : "";
  item.append(label, length);
  return item;
}

function show(found) {
  $("[data-not-yet]").hidden = true;
  $("[data-found]").hidden = false;
  set($("[data-kind]"), kinds[found.endpoint_type] ?? found.endpoint_type);
  set(
    $("[data-latency-found]"),
    found.latency_ms == null ? NOTHING : `${count(found.latency_ms)} ms`,
  );
  set($("[data-slots]"), count(found.slots ?? found.assumed_slots));
  $("[data-assumed]").hidden = found.slots != null || found.assumed_slots == null;
  set($("[data-url]"), found.base_url);
  const registered = $("[data-registered]");
  registered.hidden = !found.registered;
  if (found.registered) {
    const link = $("a", registered);
    link.href = `/endpoints/${found.registered.id}`;
    link.textContent = found.registered.name;
  }
  const problem = $("[data-problem]");
  problem.hidden = !found.problem;
  set($("span", problem), found.problem ?? "");
  set($("[data-number]"), count(found.models.length));
  $("[data-models]").replaceChildren(...found.models.map(modelItem));
  if (!name.value || name.value === proposed) name.value = proposed = found.name; // a typed name stays
}

function showNothing() {
  $("[data-found]").hidden = true;
  $("[data-not-yet]").hidden = false;
}

/** Headers on the lines of a text, as an object. */
const headersOf = text =>
  Object.fromEntries(
    text
      .split("\n")
      .filter(line => line.trim())
      .map(line => {
        const [header, ...value] = line.split(":");
        return [header.trim(), value.join(":").trim()];
      }),
  );

function connection() {
  const fields = ["proxy_url", "ca_bundle", "client_certificate", "client_key"];
  const values = Object.fromEntries(fields.map(field => [field, form.elements[field].value]));
  return { ...values, headers: headersOf(form.elements.headers.value) };
}

const requestBody = () =>
  JSON.stringify({
    base_url: address.value.trim(),
    api_key: key.value,
    cloud_type: cloud.value || null,
    api_version: form.elements.api_version.value.trim(),
    connection: connection(),
  });

async function detect() {
  const body = requestBody();
  if (lastRequest === body && looking.textContent) return; // the field, left for the button, has just sent it
  lastRequest = body;
  set(looking, looking.dataset.text);
  const response = await fetch(form.dataset.detect, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRFToken": csrfToken() },
    body,
  }).catch(() => null);
  const found = await response?.json().catch(() => null);
  if (lastRequest !== body) return; // the address has changed since
  set(looking, "");
  showProblem(response?.ok ? "" : (found?.fields?.base_url?.[0] ?? found?.error ?? NOTHING));
  if (response?.ok) show(found);
  else showNothing();
}

const detectIfNew = () => {
  if (address.value.trim() && requestBody() !== lastRequest) detect();
};
cloud.addEventListener("change", () => {
  // The address of another cloud does not stay; a typed one does.
  if (!address.value || Object.values(addresses).includes(address.value))
    address.value = addresses[cloud.value] ?? "";
  if (key.value) detectIfNew();
});
address.addEventListener("change", detectIfNew);
key.addEventListener("change", detectIfNew);
$("[data-look]").addEventListener("click", event => {
  event.preventDefault();
  detect();
});
// Enter presses the first button of a form, which only detects. In the other fields it adds the endpoint.
form.addEventListener("keydown", event => {
  const field = event.target;
  if (
    event.key !== "Enter" ||
    event.isComposing ||
    field.tagName !== "INPUT" ||
    field === address ||
    field === key
  )
    return;
  event.preventDefault();
  form.requestSubmit($("[data-add]"));
});
if (address.value && $("[data-found]").hidden && !$("[data-error-of=base_url] p")) detect(); // from a link
