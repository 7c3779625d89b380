// The addresses offered while typing: what the server suggests, then what was used here before.

const KEY = "callplane.addresses";
const KEPT = 12;

export function addressBook() {
  let suggested = [];
  let recent = load();
  const listeners = [];

  const all = () => [...new Set([...recent, ...suggested])];
  const changed = () => listeners.forEach((listener) => listener(all()));

  return {
    all,
    suggested: () => suggested,
    /** The domain to complete a bare name with: that of the first suggestion, else of the last used. */
    domain: () => /@([^;>]+)/.exec(suggested[0] ?? recent[0] ?? "")?.[1],
    suggest(addresses) {
      suggested = addresses;
      changed();
    },
    remember(address) {
      recent = [address, ...recent.filter((known) => known !== address)].slice(0, KEPT);
      try {
        localStorage.setItem(KEY, JSON.stringify(recent));
      } catch {
        // Storage may be full or denied; the list then lives as long as the page.
      }
      changed();
    },
    onchange: (listener) => listeners.push(listener),
  };
}

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(kept) ? kept.filter((entry) => typeof entry === "string").slice(0, KEPT) : [];
  } catch {
    return [];
  }
}
