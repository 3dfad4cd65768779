import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { throttle } from "../../static/js/throttle.js";

let now = 0;
let timers = [];
beforeEach(() => {
  now = 100_000;
  timers = [];
  mock.method(Date, "now", () => now);
  mock.method(globalThis, "setTimeout", (task, wait) => timers.push({ task, at: now + wait }));
});
afterEach(() => mock.restoreAll());

/** Let time pass: timers run, and promises are settled. */
async function pass(ms) {
  now += ms;
  const due = timers.filter(timer => timer.at <= now);
  timers = timers.filter(timer => timer.at > now);
  for (const { task } of due) task();
  for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
}

test("many requests are one refresh, and the next begins an interval later", async () => {
  let refreshed = 0;
  const { request } = throttle(async () => (refreshed += 1), 3000);
  for (let times = 0; times < 5; times += 1) request();
  await pass(0);
  assert.equal(refreshed, 1);
  request();
  request();
  await pass(2999);
  assert.equal(refreshed, 1);
  await pass(1);
  assert.equal(refreshed, 2);
  await pass(60_000);
  assert.equal(refreshed, 2);
});

for (const [name, failure] of [
  ["returns false", async () => false],
  ["rejects", () => Promise.reject(new Error("no connection"))],
])
  test(`after a refresh that ${name}, the next request refreshes again`, async () => {
    let refreshed = 0;
    const { request } = throttle(() => {
      refreshed += 1;
      return failure();
    }, 3000);
    request();
    await pass(0);
    assert.equal(refreshed, 1);
    request();
    await pass(3000);
    assert.equal(refreshed, 2);
  });

test("after a failed refresh, a page that is visible again refreshes", async () => {
  let refreshed = 0;
  const { request, resume } = throttle(async () => {
    refreshed += 1;
    return refreshed > 1;
  }, 3000);
  request();
  await pass(0);
  resume();
  await pass(3000);
  assert.equal(refreshed, 2);
  resume();
  await pass(3000);
  assert.equal(refreshed, 2);
});

test("a request while a refresh runs is not lost, and none run at once", async () => {
  const finish = [];
  const { request } = throttle(() => new Promise(resolve => finish.push(resolve)), 3000);
  request();
  await pass(0);
  request();
  await pass(10_000);
  assert.equal(finish.length, 1);
  finish[0](true);
  await pass(0);
  await pass(0);
  assert.equal(finish.length, 2);
});

test("a hidden page refreshes when it is visible again", async () => {
  let [refreshed, hidden] = [0, true];
  const { request, resume } = throttle(
    async () => (refreshed += 1),
    3000,
    () => hidden,
  );
  request();
  await pass(10_000);
  assert.equal(refreshed, 0);
  hidden = false;
  resume();
  await pass(0);
  assert.equal(refreshed, 1);
});

test("a page that is hidden before its refresh begins keeps it for later", async () => {
  let [refreshed, hidden] = [0, false];
  const { request, resume } = throttle(
    async () => (refreshed += 1),
    3000,
    () => hidden,
  );
  request();
  hidden = true;
  await pass(0);
  assert.equal(refreshed, 0);
  hidden = false;
  resume();
  await pass(0);
  assert.equal(refreshed, 1);
});
