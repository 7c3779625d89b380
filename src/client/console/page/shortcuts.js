// Single keys. They rest while something is typed, and can be switched off for those whom they
// disturb (WCAG 2.1.4).

import { element } from "./element.js";

const OFF = "callplane.keys";

/** `keys` is a list of `{key, words, act}`; the same list is the help's text. */
export function shortcuts(keys, help, list, onBox, opener) {
  const acts = new Map(keys.map(({ key, act }) => [key, act]));
  list.append(...keys.flatMap(({ key, words }) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, words)]));
  list.append(element("dt", {}, element("kbd", {}, "Esc")), element("dd", {}, "Close what is open, leave a field"));
  let on = read() !== "off";
  onBox.checked = on;
  onBox.addEventListener("change", () => {
    on = onBox.checked;
    write(on ? "on" : "off");
  });

  const openHelp = () => help.showModal();
  opener.addEventListener("click", openHelp);
  help.addEventListener("click", (event) => {
    if (event.target === help) help.close();
  });

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && typing(event.target)) {
      event.target.blur();
      return;
    }
    if (!on || help.open || typing(event.target)) return;
    if (event.key === "?") {
      event.preventDefault();
      openHelp();
      return;
    }
    const act = acts.get(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function typing(target) {
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable ||
      target.matches("textarea, select, input:not([type=radio]):not([type=checkbox])"))
  );
}

function read() {
  try {
    return localStorage.getItem(OFF);
  } catch {
    return null;
  }
}

function write(value) {
  try {
    localStorage.setItem(OFF, value);
  } catch {
    // Storage may be denied; the choice then lives as long as the page.
  }
}
