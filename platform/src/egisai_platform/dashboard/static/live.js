// Keeps an open page current: asks for the same URL again when calls arrive, and patches the elements marked
// `data-live`. Scroll position, focus, selection and forms stay; every page works without this file.
"use strict";
(() => {
  const badge = document.getElementById("live");
  const MIN_GAP_MS = 1000;
  let source = null, paused = false, stale = false, busy = false, again = false, timer = 0, last = 0, seen = document.body.dataset.seen;

  // --- patching ---------------------------------------------------------------------------------------------
  const key = (node) => (node.nodeType === 1 && node.getAttribute("data-key")) || null;
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);

  function patch(from, to) {
    if (from.nodeType !== 1) { if (from.data !== to.data) from.data = to.data; return; }
    const fixed = from.nodeName === "DETAILS" ? "open" : from.hasAttribute("data-copy") ? "hidden" : null;
    for (const { name } of [...from.attributes]) if (name !== fixed && !to.hasAttribute(name)) from.removeAttribute(name);
    for (const { name, value } of to.attributes) if (name !== fixed && from.getAttribute(name) !== value) from.setAttribute(name, value);
    const keyed = new Map([...from.childNodes].filter(key).map((node) => [key(node), node]));
    let at = from.firstChild;
    for (const wanted of [...to.childNodes]) {
      const known = key(wanted) ? keyed.get(key(wanted)) : at && alike(at, wanted) ? at : null;
      if (!known) {
        if (wanted.nodeName === "TR") wanted.classList.add("fresh");
        from.insertBefore(wanted, at);
        continue;
      }
      if (known === at) at = at.nextSibling; else from.insertBefore(known, at);
      patch(known, wanted);
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  }

  // --- fetching ---------------------------------------------------------------------------------------------
  function reading() {  // somebody marks text, or types into a live part: leave it alone until they are done
    const selection = getSelection(), active = document.activeElement;
    const live = (node) => node && (node.nodeType === 1 ? node : node.parentElement)?.closest("[data-live]");
    return (selection && !selection.isCollapsed && live(selection.anchorNode)) ||
      (active && active.matches("input, textarea, select") && live(active));
  }

  async function refresh() {
    timer = 0;
    if (busy) { again = true; return; }
    if (document.hidden || paused || reading()) { stale = true; show(); return; }
    busy = true; stale = again = false; last = Date.now();
    try {
      const answer = await fetch(location.href, { headers: { "X-Fragment": "main" }, credentials: "same-origin" });
      if (answer.status === 401) { location.reload(); return; }
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (reading()) stale = true;
        else for (const part of fresh.querySelectorAll("[data-live]")) {
          const mine = document.getElementById(part.id);
          if (mine) patch(mine, part);
        }
        enhance();
      }
    } catch { stale = true; }  // offline: the stream says so, and reconnecting refreshes
    busy = false;
    if (again) soon();
    show();
  }

  function soon() { if (!timer) timer = setTimeout(refresh, Math.max(0, last + MIN_GAP_MS - Date.now())); }

  // --- the stream -------------------------------------------------------------------------------------------
  function connect() {
    if (source || paused || document.hidden) return;
    const mine = source = new EventSource(document.body.dataset.events);
    let missed = stale;
    source.addEventListener("hello", ({ data }) => {  // what was told since the page was made, and while we were away
      if (missed || data !== seen) soon();
      missed = false; seen = data;
      show();
    });
    source.addEventListener("calls", soon);
    source.onerror = () => {
      if (mine.readyState === EventSource.CLOSED && mine === source) {  // refused outright: the browser gave up, we do not
        disconnect(); stale = true;
        setTimeout(connect, 5000);
      }
      missed = true;
      show();
    };
  }
  function disconnect() { if (source) source.close(); source = null; }

  function show() {
    if (!badge) return;
    const state = paused ? "paused" : source && source.readyState === EventSource.OPEN ? (stale && reading() ? "paused" : "live") : "reconnecting";
    if (badge.textContent !== state) badge.textContent = state;
    badge.className = "live " + (state === "live" ? "on" : state);
    badge.setAttribute("aria-pressed", String(paused));
  }

  // --- small comforts ---------------------------------------------------------------------------------------
  function ago(seconds, date) {  // the words of wording.ago
    if (seconds < 1) return "now";
    if (seconds >= 30 * 86400) return date;
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) if (seconds >= size) return Math.floor(seconds / size) + " " + unit + " ago";
  }
  function enhance() {
    for (const button of document.querySelectorAll("[data-copy][hidden]")) button.hidden = false;
  }
  function tick() {
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const words = ago(Math.floor((Date.now() - Date.parse(time.dateTime)) / 1000), time.textContent);
      if (time.textContent !== words && !document.hidden && !reading()) time.firstChild.data = words;
    }
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button || !navigator.clipboard) return;
    await navigator.clipboard.writeText(button.dataset.copy);
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1200);
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("select[data-submit]")) event.target.form.submit();
  });
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.matches("[data-theme-form]")) {  // no need to load the page again
      event.preventDefault();
      const button = form.querySelector("button"), theme = button.value;
      document.documentElement.dataset.theme = theme;
      document.cookie = "egis_theme=" + theme + "; path=/; max-age=31536000; samesite=lax";
      button.value = theme === "dark" ? "light" : "dark";
    } else if (form.matches("[data-filters]")) {  // an address without empty parameters
      for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
    }
  });

  if (badge) {
    badge.hidden = false;
    badge.addEventListener("click", () => {
      paused = !paused;
      if (paused) disconnect(); else { stale = true; connect(); }
      show();
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) disconnect(); else { stale = true; connect(); }
    });
    document.addEventListener("selectionchange", () => { if (stale && !reading()) soon(); });
    addEventListener("pageshow", () => { for (const field of document.querySelectorAll("[data-filters] :disabled")) field.disabled = false; connect(); });
    addEventListener("pagehide", disconnect);
    setInterval(tick, 5000);
    connect();
  }
  document.documentElement.classList.add("js");
  if (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches)
    for (const button of document.querySelectorAll("[data-theme-form] button")) button.value = "light";
  enhance();
  show();
})();
