/* The page of the API: what is typed into its filter hides the rest at once, and stays in the address. */
(() => {
  "use strict";
  const { $, $$ } = window.RouterDash;
  const box = $("[data-filter]");
  const operations = $$("[data-operation]").map(it => [it, it.dataset.operation.toLowerCase(), it.id]);

  function filter() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const [element, text, id] of operations) {
      element.hidden = !words.every(word => text.includes(word));
      if (!element.hidden) left += 1;
      for (const link of $$(`[data-contents] a[href="#${id}"]`)) link.parentElement.hidden = element.hidden;
    }
    for (const room of $$("[data-room]")) room.hidden = !$("[data-operation]:not([hidden])", room);
    for (const room of $$("[data-contents] section")) room.hidden = !$("li:not([hidden])", room);
    $("[data-none]").hidden = left > 0;
    const address = new URL(location.href);
    if (box.value) address.searchParams.set("q", box.value);
    else address.searchParams.delete("q");
    history.replaceState(history.state, "", address);
  }

  box.addEventListener("input", filter);
  box.form.addEventListener("submit", event => event.preventDefault());
})();
