/** Buttons of every page, also in the admin: they change the theme and copy texts. */

const THEMES = ["system", "light", "dark"];

function nextTheme() {
  const root = document.documentElement;
  root.dataset.theme = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
  document.cookie = `routerdash_theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=lax`;
  document.dispatchEvent(new Event("themechange"));
}

async function copy(button) {
  const field = document.querySelector(button.dataset.copy);
  if (field.select) field.select();
  else getSelection().selectAllChildren(field);
  try {
    await navigator.clipboard.writeText(field.value ?? field.textContent);
  } catch {
    document.execCommand("copy"); // without HTTPS, except on localhost, there is no clipboard
  }
  button.textContent = button.dataset.done;
}

document.addEventListener("click", event => {
  if (event.target.closest("[data-theme-toggle]")) {
    event.preventDefault(); // its form is for pages without scripts
    nextTheme();
  }
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});
