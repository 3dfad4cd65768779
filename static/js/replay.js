/** Follows a replay that is running: its part of the page is fetched again each second. */

import { $ } from "./dom.js";
import { fetchPart, swapParts } from "./parts.js";

const SECOND = 1000;

async function follow() {
  if ($("[data-part=replay]")?.dataset.state !== "running") return;
  const part = document.hidden ? null : await fetchPart(location.href);
  if (part) swapParts(part.content, { always: ["replay"] });
  setTimeout(follow, SECOND);
}

setTimeout(follow, SECOND);
