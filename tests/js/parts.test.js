import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { stubPage } from "./stub_page.js";

const page = stubPage();
const { fetchPart } = await import("../../static/js/parts.js");

const respond = response =>
  mock.method(globalThis, "fetch", async () => ({
    ok: true,
    status: 200,
    redirected: false,
    text: async () => "<p>fresh</p>",
    ...response,
  }));

beforeEach(() => {
  mock.restoreAll();
  page.reloads = 0;
});

test("a part is requested as HTML, and by the header of parts", async () => {
  const request = respond({});
  assert.deepEqual(await fetchPart("/models"), { content: "<p>fresh</p>", refused: false });
  const [address, { headers }] = request.mock.calls[0].arguments;
  assert.equal(address, "/models");
  assert.deepEqual(headers, { Accept: "text/html", "X-RouterDash-Part": "true" });
});

test("a form that the server refuses has a response to show", async () => {
  respond({ ok: false, status: 422 });
  assert.equal((await fetchPart("/keys", { method: "POST" })).refused, true);
});

test("an error and a lost connection give no part", async () => {
  respond({ ok: false, status: 500 });
  assert.equal(await fetchPart("/models"), null);
  mock.method(globalThis, "fetch", () => Promise.reject(new TypeError("no connection")));
  assert.equal(await fetchPart("/models"), null);
  assert.equal(page.reloads, 0);
});

test("a redirect reloads the page, which shows the login", async () => {
  respond({ redirected: true });
  assert.equal(await fetchPart("/models"), null);
  assert.equal(page.reloads, 1);
});
