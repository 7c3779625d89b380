// The drawer with the frames as they went over the wire, for those who write a client.

import { isHeartbeat } from "./protocol.js";
import { element, attribute, say, show, copyText, timeOfDay } from "./element.js";

const KEPT = 400;

/** Returns `{log(direction, text, frame, at), toggle(), update(model)}`. */
export function framesDrawer(page, world) {
  const { drawer, opener, list, position } = page;
  const kept = [];
  let heartbeat = false;

  const add = (entry) => {
    const wasAtEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 4;
    list.append(frameRow(entry, world));
    if (wasAtEnd) list.scrollTop = list.scrollHeight;
  };
  const redraw = () => {
    list.replaceChildren();
    kept.filter((entry) => heartbeat || !entry.heartbeat).forEach(add);
  };
  const toggle = (open = drawer.hidden) => {
    show(drawer, open);
    attribute(opener, "aria-expanded", String(open));
    document.body.classList.toggle("with-drawer", open);
    if (open) {
      drawPosition(world.model());
      redraw();
      list.scrollTop = list.scrollHeight;
      list.focus();
    } else if (drawer.contains(document.activeElement) || document.activeElement === document.body) opener.focus();
  };

  const drawPosition = (model) => {
    const at = model.position ? `epoch ${model.position.epoch}, seq ${model.position.seq}` : "no position yet";
    say(position, `${model.session ? `session ${model.session}` : "no session yet"} · ${at}`);
  };

  opener.addEventListener("click", () => toggle());
  page.close.addEventListener("click", () => toggle(false));
  drawer.addEventListener("keydown", (event) => {
    if (event.key === "Escape") toggle(false);
  });
  page.heartbeat.addEventListener("change", () => {
    heartbeat = page.heartbeat.checked;
    redraw();
  });
  page.clear.addEventListener("click", () => {
    kept.length = 0;
    redraw();
  });
  page.copy.addEventListener("click", async () => {
    const shown = kept.filter((entry) => heartbeat || !entry.heartbeat);
    if (await copyText(shown.map((entry) => `${entry.direction === "out" ? "->" : "<-"} ${entry.text}`).join("\n"))) {
      world.announce(`${shown.length} frames copied`);
    }
  });
  page.raw.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = page.rawText.value.trim();
    if (text && world.sendRaw(text)) page.rawText.value = "";
  });

  return {
    toggle,
    log(direction, text, frame, at) {
      const entry = { direction, text, at, heartbeat: ofHeartbeat(frame) };
      kept.push(entry);
      if (kept.length > KEPT) kept.shift();
      if (drawer.hidden || (entry.heartbeat && !heartbeat)) return;
      add(entry);
      if (list.children.length > KEPT) list.firstElementChild.remove();
    },
    update(model) {
      if (!drawer.hidden) drawPosition(model);
    },
  };
}

function ofHeartbeat(frame) {
  const id = frame?.params?.cmd_id ?? frame?.result?.cmd_id;
  return id !== undefined && isHeartbeat(id);
}

function frameRow(entry, world) {
  const copy = element("button.text-button", { type: "button", "aria-label": "Copy this frame" }, "Copy");
  copy.addEventListener("click", async () => {
    if (await copyText(entry.text)) world.announce("Frame copied");
  });
  return element(
    "li.frame",
    { dataset: { direction: entry.direction } },
    element("span.frame-way", { title: entry.direction === "out" ? "Sent" : "Received" }, entry.direction === "out" ? "→" : "←"),
    element("time", {}, timeOfDay(entry.at)),
    element("code", {}, entry.text),
    copy,
  );
}
