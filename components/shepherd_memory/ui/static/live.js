// Keeps an open page current: asks for the page again when the service says that something has
// changed, and puts its live parts in place of the old ones.  Without this script the page is the
// same, as of when it was loaded.

const PAUSE_MS = 1000;
const url = document.body.dataset.liveUrl;
const button = document.getElementById("live");
const said = document.getElementById("said");

let source = null;
let asking = false;
let again = false;

const selects = () => {
  const selection = document.getSelection();
  return selection !== null && !selection.isCollapsed;
};

const pageNow = () =>
  new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", window.location.href);
    request.responseType = "document";
    request.onload = () =>
      request.status === 200 && request.response ? resolve(request.response) : reject();
    request.onerror = reject;
    request.send();
  });

const marked = (fresh, old) => {
  const before = new Map();
  for (const each of old.querySelectorAll("[data-standing]")) {
    before.set(each.id || each.getAttribute("href"), each.dataset.standing);
  }
  for (const each of fresh.querySelectorAll("[data-standing]")) {
    const was = before.get(each.id || each.getAttribute("href"));
    each.classList.toggle("changed", was !== each.dataset.standing);
  }
  const known = new Set(Array.from(old.querySelectorAll("[data-new]"), (each) => each.dataset.new));
  for (const each of fresh.querySelectorAll("[data-new]")) {
    each.classList.toggle("changed", !known.has(each.dataset.new));
  }
};

const replaced = (old, fresh) => {
  for (const details of old.querySelectorAll("details[open][id]")) {
    fresh.querySelector(`#${CSS.escape(details.id)}`)?.setAttribute("open", "");
  }
  const same = old.innerHTML === fresh.innerHTML;
  const words = fresh.dataset.said;
  if (same) return;
  if (words && words !== old.dataset.said) said.textContent = words;
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const place = focused?.id ? `#${CSS.escape(focused.id)}` : focusPath(focused, old);
  marked(fresh, old);
  const adopted = document.adoptNode(fresh);
  old.replaceWith(adopted);
  if (place) (adopted.querySelector(place) ?? adopted.closest("main")).focus({ preventScroll: true });
};

const focusPath = (focused, within) => {
  if (focused === null) return "";
  const href = focused.getAttribute("href");
  if (href !== null) return `a[href="${CSS.escape(href)}"]`;
  const owner = focused.closest("[id]");
  if (owner === null || owner === within) return "";
  return `#${CSS.escape(owner.id)} ${focused.localName}`;
};

const refresh = async () => {
  if (asking || selects()) {
    again = true;
    return;
  }
  asking = true;
  again = false;
  try {
    const page = await pageNow();
    if (source === null) return;
    for (const old of document.querySelectorAll("[data-live]")) {
      const fresh = page.getElementById(old.id);
      if (fresh !== null) replaced(old, fresh);
    }
  } catch {
    button.classList.remove("connected");
  } finally {
    setTimeout(() => {
      asking = false;
      catchUp();
    }, PAUSE_MS);
  }
};

const catchUp = () => {
  if (again && !asking && source !== null && !selects()) refresh();
};

const listen = () => {
  source = new EventSource(url);
  source.addEventListener("change", refresh);
  source.addEventListener("open", () => {
    button.classList.add("connected");
    refresh();
  });
  source.addEventListener("error", () => button.classList.remove("connected"));
};

const pause = () => {
  source.close();
  source = null;
  button.classList.remove("connected");
};

if (url && button) {
  button.hidden = false;
  button.addEventListener("click", () => {
    if (source === null) listen();
    else pause();
    button.setAttribute("aria-pressed", String(source !== null));
  });
  document.addEventListener("selectionchange", catchUp);
  window.addEventListener("pagehide", () => source?.close());
  listen();
}
