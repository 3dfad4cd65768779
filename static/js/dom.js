/** Short names for common operations on elements. */

export const $ = (selector, from = document) => from.querySelector(selector);
export const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];

/** Write text into an element only if it differs: an equal text would be selected and announced again. */
export function set(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

/** Write a figure and its unit; the unit gets a small grey element. */
export function setUnits(element, text) {
  const [, figure, unit] = /^([^ %]+)(?: |(?=%))(.+)$/.exec(text) ?? [text, text];
  if (element.textContent === figure + (unit ?? "")) return;
  element.textContent = figure;
  if (!unit) return;
  const small = document.createElement("span");
  small.className = "unit";
  small.textContent = unit;
  element.append(small);
}

/** Return the children of a `<template>` by the name that `key` gives each of them. */
export function templateChildren(selector, key) {
  const children = $(selector)?.content.children ?? [];
  return Object.fromEntries([...children].map(child => [key(child), child]));
}

/** Return the texts of a `<template>` by the value of a data attribute of each. */
export function templateTexts(selector, name) {
  const children = templateChildren(selector, child => child.dataset[name]);
  return Object.fromEntries(
    Object.entries(children).map(([key, child]) => [key, child.textContent]),
  );
}

/** Return a new element of the first child of a `<template>`. */
export const fromTemplate = selector => $(selector).content.firstElementChild.cloneNode(true);

const cookie = name => new RegExp(`(?:^|; )${name}=([^;]*)`).exec(document.cookie)?.[1];

/** Return the CSRF token. It comes from the cookie: a login in another tab changes it after this page was loaded. */
export const csrfToken = () => cookie("__Host-routerdash_csrf") ?? cookie("routerdash_csrf") ?? "";
