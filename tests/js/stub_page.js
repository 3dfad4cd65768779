/** A page without elements, for scripts under test: listeners of events, and elements by their selectors. */

/** Make the globals that a browser gives to scripts. Call it before the import of a script. */
export function stubPage({ lang = "en", timeZone = "UTC" } = {}) {
  const listeners = new Map();
  const elements = new Map();
  const page = {
    elements,
    opened: [],
    reloads: 0,
    dispatch(type, event = {}) {
      const whole = { type, preventDefault: () => (whole.defaultPrevented = true), ...event };
      for (const listener of listeners.get(type) ?? []) listener(whole);
      return whole;
    },
  };
  globalThis.Element ??= class Element {};
  globalThis.HTMLFormElement ??= class HTMLFormElement extends globalThis.Element {};
  const all = selector => [elements.get(selector) ?? []].flat();
  globalThis.document = {
    documentElement: { lang, dataset: {} },
    body: { dataset: { timeZone } },
    querySelector: selector => all(selector)[0] ?? null,
    querySelectorAll: all,
    createElement: () => ({
      set innerHTML(text) {
        this.content = text;
      },
    }),
    addEventListener(type, listener) {
      listeners.set(type, [...(listeners.get(type) ?? []), listener]);
    },
  };
  globalThis.location = {
    assign: address => page.opened.push(address),
    reload: () => (page.reloads += 1),
  };
  return page;
}

/** Return an element for keyboard events. */
export const stubElement = (properties = {}) =>
  Object.assign(new globalThis.Element(), {
    tagName: "DIV",
    isContentEditable: false,
    closest: () => null,
    matches: () => false,
    getClientRects: () => [{}],
    ...properties,
  });
