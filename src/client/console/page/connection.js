// The WebSocket: opens it, opens it again after a loss, and tells what state it is in. It knows
// nothing of what the frames mean.

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 8000;

/**
 * `listeners`:
 * * `opened()`: frames can be sent;
 * * `received(text)`: a frame came in;
 * * `lost()`: the connection is gone, once per `opened`;
 * * `changed(state)`: `{name: "connecting" | "open" | "waiting" | "closed", retryAt?, code?, reason?}`.
 *
 * `closing(code)` says whether a close is followed by another attempt, and after how long at least:
 * `{again, after}`.
 */
export function openConnection(url, closing, listeners) {
  let socket = null;
  let wait = FIRST_WAIT_MS;
  let timer;
  let state;

  const change = (next) => {
    state = next;
    listeners.changed(next);
  };

  const connect = () => {
    clearTimeout(timer);
    change({ name: "connecting" });
    const current = new WebSocket(url);
    let opened = false;
    socket = current;
    current.onopen = () => {
      opened = true;
      wait = FIRST_WAIT_MS;
      change({ name: "open" });
      listeners.opened();
    };
    current.onmessage = (message) => {
      if (typeof message.data === "string") listeners.received(message.data);
    };
    current.onclose = ({ code, reason }) => {
      if (socket !== current) return;
      socket = null;
      if (opened) listeners.lost();
      const { again, after } = closing(code);
      if (!again) {
        change({ name: "closed", code, reason });
        return;
      }
      // Spread, so that many pages don't come back in one instant.
      const pause = Math.max(after, wait / 2 + Math.random() * (wait / 2));
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
      change({ name: "waiting", retryAt: Date.now() + pause, code, reason });
      timer = setTimeout(connect, pause);
    };
  };

  const connectNow = () => {
    if (socket === null) connect();
  };
  addEventListener("online", connectNow);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && state.name === "waiting") connectNow();
  });

  connect();
  return {
    /** Sends a frame; `false` when there is no open connection. */
    send(text) {
      if (socket?.readyState !== WebSocket.OPEN) return false;
      socket.send(text);
      return true;
    },
    connectNow,
  };
}
