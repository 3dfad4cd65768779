/* The form that adds an endpoint: what a server is, is asked when its address has been written, and on the button. */
(() => {
  "use strict";
  const { $, set, count, token, NOTHING } = window.RouterDash;
  const form = $("[data-detect]");
  const { base_url: address, api_key: key, name } = form.elements;
  const kinds = JSON.parse($("#kinds").textContent);
  const looking = $("[data-looking]");
  let asked = ""; // address and key of the last question
  let proposed = "";

  function wrong(text) {
    const place = $("[data-error-of=base_url]");
    place.replaceChildren();
    address.toggleAttribute("aria-invalid", Boolean(text));
    if (!text) return;
    const said = document.createElement("p");
    said.className = "st st-error wrap";
    said.setAttribute("role", "alert");
    said.textContent = text;
    place.append(said);
  }

  function model(it) {
    const item = document.createElement("li");
    const label = document.createElement("span");
    const length = document.createElement("small");
    label.className = "mono";
    label.textContent = it.model_id;
    length.textContent = it.max_tokens ? count(it.max_tokens) : "";
    item.append(label, length);
    return item;
  }

  function show(found) {
    $("[data-not-yet]").hidden = true;
    $("[data-found]").hidden = false;
    set($("[data-kind]"), kinds[found.endpoint_type] ?? found.endpoint_type);
    set($("[data-latency-found]"), found.latency_ms == null ? NOTHING : `${count(found.latency_ms)} ms`);
    set($("[data-slots]"), count(found.slots));
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
    $("[data-models]").replaceChildren(...found.models.map(model));
    if (!name.value || name.value === proposed) name.value = proposed = found.name; // what somebody wrote stays
  }

  function showNothing() {
    $("[data-found]").hidden = true;
    $("[data-not-yet]").hidden = false;
  }

  async function look() {
    const question = JSON.stringify({ base_url: address.value.trim(), api_key: key.value });
    if (asked === question && looking.textContent) return; // leaving the field for the button has just asked it
    asked = question;
    set(looking, looking.dataset.text);
    const answer = await fetch(form.dataset.detect, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": token() },
      body: question,
    }).catch(() => null);
    const told = await answer?.json().catch(() => null);
    if (asked !== question) return; // the address was changed meanwhile
    set(looking, "");
    wrong(answer?.ok ? "" : (told?.fields?.base_url?.[0] ?? told?.error ?? NOTHING));
    if (answer?.ok) show(told);
    else showNothing();
  }

  const lookIfNew = () => {
    if (address.value.trim() && JSON.stringify({ base_url: address.value.trim(), api_key: key.value }) !== asked) look();
  };
  address.addEventListener("change", lookIfNew);
  key.addEventListener("change", lookIfNew);
  $("[data-look]").addEventListener("click", event => {
    event.preventDefault();
    look();
  });
  // Enter presses a form's first button, which only looks: in fields that say nothing of a server it adds.
  form.addEventListener("keydown", event => {
    const field = event.target;
    if (event.key !== "Enter" || event.isComposing || field.tagName !== "INPUT" || field === address || field === key) return;
    event.preventDefault();
    form.requestSubmit($("[data-add]"));
  });
  if (address.value && $("[data-found]").hidden && !$("[data-error-of=base_url] p")) look(); // a link has filled it in
})();
