/** Refreshes of a page that events cause: never two at once, and not too many in a short time. */

/**
 * Return `request`, which schedules a refresh, and `resume`, which is called when the page is visible again.
 *
 * `refresh` is an async function. It begins at least `interval` ms after it last began, and never while it runs. While
 * `paused` returns true, requests wait for `resume`. A refresh that rejects or returns false has failed; the next
 * request repeats it.
 */
export function throttle(refresh, interval, paused = () => false) {
  let timer = null;
  let running = false;
  let due = false;
  let startedAt = -Infinity;

  async function run() {
    timer = null;
    if (paused()) return;
    [running, due, startedAt] = [true, false, Date.now()];
    const succeeded = await refresh().catch(() => false);
    running = false;
    if (due) schedule();
    due ||= succeeded === false;
  }
  function schedule() {
    if (timer !== null || running || paused()) return;
    timer = setTimeout(run, Math.max(0, startedAt + interval - Date.now()));
  }
  return {
    request() {
      due = true;
      schedule();
    },
    resume() {
      if (due) schedule();
    },
  };
}
