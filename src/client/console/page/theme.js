// Chooses light or dark before the first paint; without a choice of the person's, the system's.
// Loaded as a plain script in the head, so that no page ever flashes in the wrong colours.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("callplane.theme");
  } catch {
    // Storage may be denied; then the system's preference stands.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
