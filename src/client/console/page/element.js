// Making and changing elements. Text goes in as text: nothing here, and nothing that uses it, ever
// parses markup.

/**
 * `element("button.quiet", {type: "button", onclick}, "Hold")`: a tag with classes, properties and
 * children. A property that starts with `on` is a listener, `dataset` is an object, anything else an
 * attribute; `true` is an empty attribute and `false`, `null` and `undefined` are none.
 */
export function element(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "dataset") Object.assign(made.dataset, value);
    else attribute(made, key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function attribute(target, name, value) {
  if (value === false || value === null || value === undefined) target.removeAttribute(name);
  else if (target.getAttribute(name) !== String(value === true ? "" : value)) {
    target.setAttribute(name, value === true ? "" : value);
  }
}

/** Sets text only when it differs, so that selections and screen readers are left in peace. */
export function say(target, words) {
  if (target.textContent !== words) target.textContent = words;
}

export function show(target, visible) {
  if (target.hidden === visible) target.hidden = !visible;
}

const SVG = "http://www.w3.org/2000/svg";

/** An icon drawn with strokes in the colour of the text beside it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  for (const d of PATHS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

const PATHS = {
  hold: ["M7 5v10", "M13 5v10"],
  resume: ["M7 4.5v11l8-5.5z"],
  transfer: ["M4 10h11", "M11 6l4 4-4 4"],
  join: ["M4 5c5 0 5 10 11 10", "M4 15c5 0 5-10 11-10"],
  end: ["M5 5l10 10", "M15 5L5 15"],
  open: ["M7.5 5l5 5-5 5"],
  copy: ["M7 7h9v9H7z", "M4 13V4h9"],
};

/**
 * Keeps a list's children in step with `items`: one child per key, moved, made or removed as needed.
 * `make(item)` returns `{root, update(item)}`.
 */
export function keyedList(parent, keyOf, make) {
  const shown = new Map();
  return (items) => {
    const focused = document.activeElement;
    const wanted = new Set(items.map(keyOf));
    for (const [key, part] of shown) {
      if (wanted.has(key)) continue;
      part.root.remove();
      shown.delete(key);
    }
    let before = parent.firstElementChild;
    for (const item of items) {
      const key = keyOf(item);
      let part = shown.get(key);
      if (!part) {
        part = make(item);
        shown.set(key, part);
      }
      if (part.root === before) before = before.nextElementSibling;
      else parent.insertBefore(part.root, before);
      part.update(item);
    }
    // An element that is moved loses the focus.
    if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
  };
}

/** Puts text on the clipboard; `true` when it worked. Plain HTTP has only the older way. */
export async function copyText(words) {
  try {
    await navigator.clipboard.writeText(words);
    return true;
  } catch {
    const area = element("textarea", { readonly: true, "aria-hidden": "true" });
    area.value = words;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

/** A duration as people read it: `0.34 s`, `12.3 s`, `1:05`, `1:02:03`. */
export function duration(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return clock(ms);
}

/** A duration as a phone shows it: `0:05`, `1:02:03`. */
export function clock(ms) {
  const all = Math.max(0, Math.floor(ms / 1000));
  const two = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor(all / 60);
  if (minutes < 60) return `${minutes}:${two(all % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(all % 60)}`;
}

export function timeOfDay(ms) {
  return new Date(ms).toLocaleTimeString(undefined, { hour12: false });
}
