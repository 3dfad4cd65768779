/* What every page needs, the admin's too. Loaded before the body, so that no page flashes in the wrong theme. */
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js"); // styles hide what does nothing without a script

  /* ---- theme: the cookie is what the server renders from, too */
  const themes = ["system", "light", "dark"];
  const stored = /(?:^|; )routerdash_theme=(light|dark)/.exec(document.cookie);
  root.dataset.theme = stored ? stored[1] : "system";

  function nextTheme() {
    root.dataset.theme = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
    document.cookie = `routerdash_theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=lax`;
    document.dispatchEvent(new Event("themechange"));
  }

  /* ---- the zone of whoever looks, in which the server then writes times */
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone) document.cookie = `routerdash_zone=${zone}; path=/; max-age=31536000; samesite=lax`;

  /* ---- copying: the clipboard is only there under HTTPS and on localhost */
  async function copy(button) {
    const field = document.querySelector(button.dataset.copy);
    if (field.select) field.select();
    else getSelection().selectAllChildren(field);
    try {
      await navigator.clipboard.writeText(field.value ?? field.textContent);
    } catch {
      document.execCommand("copy");
    }
    button.textContent = button.dataset.done;
  }

  document.addEventListener("click", event => {
    if (event.target.closest("[data-theme-toggle]")) {
      event.preventDefault(); // its form is for pages without a script
      nextTheme();
    }
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });
})();
