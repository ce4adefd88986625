// The keyboard: / searches, g and a letter goes to a page, j and k walk the rows, . pauses, ? tells all this.
export function keys({ togglePause }) {
  let leading = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (event.key === "Escape" && field) event.target.blur();
    if (field || document.querySelector("dialog[open]")) return;
    if (Date.now() - leading < 1500 && event.key.length === 1) {
      leading = 0;
      const link = document.querySelector(`.side a[data-key="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); link.click(); return; }
    }
    if (event.key === "g") leading = Date.now();
    else if (event.key === "/") { event.preventDefault(); document.getElementById("search").focus(); }
    else if (event.key === "?") document.getElementById("keys").showModal();
    else if (event.key === ".") togglePause();
    else if (event.key === "j" || event.key === "k") walk(event.key === "j" ? 1 : -1);
    else if (event.key === "Enter" && event.target === document.body) document.querySelector("tr.at a")?.click();
  });
}

function walk(step) {
  const rows = [...document.querySelectorAll("#live .rows tbody tr")];
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.classList.contains("at"));
  const next = rows[Math.min(Math.max(at + step, 0), rows.length - 1)];
  rows.forEach((row) => row.classList.remove("at"));
  next.classList.add("at");
  next.scrollIntoView({ block: "nearest" });
  const link = next.querySelector("a");
  if (link) link.focus({ preventScroll: true });
}
