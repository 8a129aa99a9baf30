// The connection to the inspector, and the watch over it: what is old is never shown as if it were live.

const SILENT_MS = 3000;
const RETRY_MS = 2000;

export function connect({ onState, onLink }) {
  let source = null;
  let lastAt = performance.now();
  let lastWall = Date.now() / 1000;
  let last = null;
  let opening = 0;

  function tell(next, why = "", since = lastWall) {
    onLink(next, why, since);
  }

  // Why what we have is not live, or null.
  function fault() {
    const age = (performance.now() - lastAt) / 1000;
    if (age > SILENT_MS / 1000) return ["No connection to the inspector", lastWall];
    if (last === null) return null;
    if (!last.attached) return null;
    const silent = last.silent_s + age;
    if (silent > SILENT_MS / 1000) return ["The inspector does not answer", Date.now() / 1000 - silent];
    if (last.run) {
      const cycle = last.run.cycle_age_s + silent;
      const limit = last.run.cycle_limit_s || 10;
      if (cycle > limit) return ["The inspector hangs: no cycle was completed", Date.now() / 1000 - cycle];
    }
    return null;
  }

  function watch() {
    const found = fault();
    if (found) tell("lost", found[0], found[1]);
    else if (last !== null) tell(last.attached ? (last.run ? "live" : "starting") : "record");
  }

  function open() {
    clearTimeout(opening);
    if (source) source.close();
    source = new EventSource("/api/stream");
    source.onmessage = (message) => {
      last = JSON.parse(message.data);
      lastAt = performance.now();
      lastWall = Date.now() / 1000;
      watch();
      onState(last);
    };
    source.onerror = () => {
      // The browser tries again by itself unless it was refused.
      if (source.readyState !== EventSource.CLOSED) return;
      fetch("/api/state", { cache: "no-store" }).then((answer) => {
        if (answer.status === 401) location.assign("/login");
      }).catch(() => {});
      opening = setTimeout(open, RETRY_MS);
    };
  }

  open();
  setInterval(watch, 500);
  document.addEventListener("visibilitychange", watch);
}
