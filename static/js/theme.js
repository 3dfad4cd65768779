/** No module, because it runs before the body is shown: it sets the theme, the class `js` and the time zone. */
{
  const root = document.documentElement;
  root.classList.add("js"); // the style sheet hides controls that need scripts
  // The server renders the theme from this cookie, too.
  root.dataset.theme =
    /(?:^|; )routerdash_theme=(light|dark)/.exec(document.cookie)?.[1] ?? "system";
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone; // the server writes times in it
  if (zone) document.cookie = `routerdash_zone=${zone}; path=/; max-age=31536000; samesite=lax`;
}
