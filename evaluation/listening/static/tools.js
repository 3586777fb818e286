// ------------------------------------------------------------------ tools
// Small things that all parts use.

/**
 * Make an element. Text is only ever set as text, so names from files cannot become markup.
 * Properties starting with "on" are listeners, the rest attributes; null and false are left out.
 */
function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

const byId = (id) => document.getElementById(id);

/** Say something to screen readers. */
function announce(text) {
  byId("status").textContent = text;
}

/** Return the lower-case letter, digit or name of a pressed key, or "" if it is a shortcut. */
function plainKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return "";
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

/** Format seconds as 0:03.4. */
function clock(seconds) {
  const tenths = Math.floor(seconds * 10 + 1e-6);
  const minutes = Math.floor(tenths / 600);
  return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

/** Return a whole number drawn uniformly from 0..limit-1 by the browser's cryptographic source. */
function randomBelow(limit) {
  const word = new Uint32Array(1);
  const fair = Math.floor(2 ** 32 / limit) * limit; // what is above would favour small numbers
  do crypto.getRandomValues(word);
  while (word[0] >= fair);
  return word[0] % limit;
}

/** Return a copy in random order (Fisher and Yates). */
function shuffled(items) {
  const out = [...items];
  for (let i = out.length - 1; i > 0; i -= 1) {
    const j = randomBelow(i + 1);
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}

/** Return 12 random letters and digits. */
function randomName() {
  const signs = "abcdefghijklmnopqrstuvwxyz0123456789";
  return Array.from({ length: 12 }, () => signs[randomBelow(signs.length)]).join("");
}

/** Return a cell of CSV (RFC 4180). */
function csvCell(value) {
  const text = value === null ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Offer a text as a file to save. */
function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

/** The browser's store, which may be forbidden (private windows, some browsers on file://). */
const store = {
  get(key) {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null;
    }
  },
  /** Return whether it was kept. */
  set(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  },
  remove(key) {
    try {
      localStorage.removeItem(key);
    } catch {
      // then there is nothing to remove
    }
  },
};
