/** Gauges of limits: the page fetches them again every two seconds while it is visible. */

import { fetchPart, swapParts } from "./parts.js";

const EVERY_MS = 2000;

async function refresh() {
  if (!document.hidden) {
    const part = await fetchPart(location.href);
    if (part) swapParts(part.content);
  }
  setTimeout(refresh, EVERY_MS);
}
setTimeout(refresh, EVERY_MS);
