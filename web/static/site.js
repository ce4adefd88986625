// Keeps an open page up to date: a stream of events, or asking again and again; keys, theme, tables.
import { Figures } from "./figures.js";
import { morph } from "./morph.js";
import { keys } from "./keys.js";

const boot = JSON.parse(document.getElementById("boot").textContent);
const live = document.getElementById("live");
const standing = document.getElementById("standing");
const age = document.getElementById("age");
const figures = new Figures(boot);
const state = { id: boot.id, heard: Date.now(), paused: false, source: null, timer: 0, failures: 0 };

export function toast(text) {
  const box = document.getElementById("toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { box.hidden = true; }, 4000);
}

function query() {
  const parts = new URLSearchParams(boot.args);
  parts.set("page", boot.page);
  parts.set("since", state.id);
  return parts.toString();
}

// -- what arrives ----------------------------------------------------------------------------------------------------

function apply(tick) {
  state.id = tick.id || state.id;
  state.heard = Date.now();
  state.failures = 0;
  if (tick.standing) stand(tick.standing);
  if (tick.html !== undefined && !busy()) {
    morph(live, tick.html);
    decorate();
  }
  figures.replace(tick.figures);
  figures.append(tick.append);
  document.documentElement.dataset.ticks = String(Number(document.documentElement.dataset.ticks || 0) + 1);
}

// Somebody who selects text or writes into a field must not lose it to the next tick.
function busy() {
  const selection = document.getSelection();
  return selection !== null && !selection.isCollapsed && live.contains(selection.anchorNode);
}

function stand(news) {
  standing.dataset.level = news.level;
  standing.querySelector(".word").textContent = news.level;
  const sentence = standing.querySelector(".sentence");
  if (sentence.textContent !== news.health) {
    // Screen readers hear of changes of level, not of every number.
    sentence.setAttribute("aria-live", sentence.dataset.level === news.level ? "off" : "polite");
    sentence.dataset.level = news.level;
    sentence.textContent = news.health;
  }
  state.age = news.age;
  state.away = news.level === "away";
  showAge();
}

function showAge() {
  const old = (state.age || 0) + (Date.now() - state.heard) / 1000;
  if (state.paused) age.textContent = "paused";
  else if (state.failures) age.textContent = `reconnecting, ${Math.round(old)} s old`;
  else if (state.away || old > 5) age.textContent = state.age === null ? "" : `${Math.round(old)} s old`;
  else age.textContent = "";
}

// -- how it arrives --------------------------------------------------------------------------------------------------

function connect() {
  disconnect();
  if (state.paused || document.hidden) return;
  if (!("EventSource" in window) || new URLSearchParams(location.search).has("poll")) { poll(); return; }
  const source = state.source = new EventSource(`${boot.live}?${query()}`);
  source.addEventListener("tick", (event) => apply(JSON.parse(event.data)));
  source.addEventListener("gone", (event) => { disconnect(); toast(JSON.parse(event.data).error); });
  source.onerror = () => {
    state.failures += 1;
    showAge();
    // Closed for good (too many streams, or logged out), or cut again and again: ask instead.
    if (source.readyState === EventSource.CLOSED || state.failures > 3) { disconnect(); poll(); }
  };
}

async function poll() {
  clearTimeout(state.timer);
  if (state.paused || document.hidden) return;
  try {
    const answer = await fetch(`${boot.tick}?${query()}`, { headers: { Accept: "application/json" } });
    if (answer.status === 401) { location.reload(); return; }
    if (!answer.ok) throw new Error(String(answer.status));
    apply(await answer.json());
  } catch (error) {
    state.failures += 1;
    showAge();
  }
  const pause = Math.min(1000 * Math.max(boot.every, 1) * 2 ** Math.min(state.failures, 4), 20000);
  state.timer = setTimeout(poll, pause);
}

function disconnect() {
  clearTimeout(state.timer);
  if (state.source) state.source.close();
  state.source = null;
}

// -- what the page offers --------------------------------------------------------------------------------------------

function decorate() {
  for (const moment of document.querySelectorAll("time[datetime]:not([title])")) {
    const when = new Date(moment.dateTime);
    moment.title = moment.dateTime;
    const today = when.toDateString() === new Date().toDateString();
    moment.textContent = today ? when.toLocaleTimeString() : when.toLocaleString();
  }
  for (const table of document.querySelectorAll("table[data-sortable]")) sortable(table);
}

const orders = new Map();

function sortable(table) {
  const name = table.closest("section, [aria-label]")?.getAttribute("aria-label") || "table";
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    if (!cell.querySelector("button, .hidden")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", () => {
        const before = orders.get(name);
        orders.set(name, { column, down: before?.column === column ? !before.down : cell.classList.contains("n") });
        sort(table, orders.get(name));
      });
    }
  });
  if (orders.has(name)) sort(table, orders.get(name));
}

const units = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40, "µs": 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600, days: 86400 };

function value(cell) {
  if (cell.dataset.sort) return Number(cell.dataset.sort);
  const text = cell.textContent.trim();
  const found = /^([-\d.,]+)\s*([A-Za-zµ]*)/.exec(text);
  if (!cell.classList.contains("n")) return text.toLowerCase();
  return found ? Number(found[1].replaceAll(",", "")) * (units[found[2]] || 1) : -1;
}

function sort(table, order) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [value(row.cells[order.column]), row]);
  rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (order.down ? -1 : 1));
  body.append(...rows.map(([, row]) => row));
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    if (column === order.column) cell.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

function togglePause() {
  state.paused = !state.paused;
  const button = document.getElementById("pause");
  button.setAttribute("aria-pressed", String(state.paused));
  button.textContent = state.paused ? "Go on" : "Pause";
  showAge();
  connect();
}

function nextTheme() {
  const order = ["system", "light", "dark"];
  const root = document.documentElement;
  const next = order[(order.indexOf(root.dataset.theme) + 1) % 3];
  root.dataset.theme = next;
  try { localStorage.setItem("futurebroker-theme", next); } catch (error) { /* for this page only, then */ }
  toast(`Theme: ${next}`);
  figures.repaint();
}

document.getElementById("pause").addEventListener("click", togglePause);
document.getElementById("theme").addEventListener("click", nextTheme);
document.getElementById("help").addEventListener("click", () => document.getElementById("keys").showModal());
document.getElementById("copy").addEventListener("click", async () => {
  try { await navigator.clipboard.writeText(location.href); toast("Link copied"); } catch (error) { toast(location.href); }
});
document.addEventListener("submit", (event) => {
  const question = event.target.dataset?.ask;
  if (question && !window.confirm(question)) event.preventDefault();
});
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => figures.repaint());
window.addEventListener("pagehide", disconnect);
figures.onwindow = (changes) => {
  Object.assign(boot.args, changes);
  for (const [name, value] of Object.entries(changes)) if (value === "") delete boot.args[name];
  const url = new URL(location.href);
  url.search = new URLSearchParams(boot.args).toString();
  history.replaceState(null, "", url);
  connect();
};
keys({ togglePause });
decorate();
setInterval(showAge, 1000);
figures.start();
connect();
document.documentElement.dataset.ready = "yes";
