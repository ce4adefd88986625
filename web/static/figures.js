// Draws the figures: traces and layout came with the page, columns come with each tick.
const KEPT = 600;

function dig(value, path) {
  return path.split(".").reduce((inner, step) => (inner === undefined || inner === null ? undefined : inner[step]), value);
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

// Bytes are written as everywhere on the page: Plotly only knows powers of ten.
function binary(axis, name, traces, stacks) {
  const letter = name[0], anchor = name.replace("axis", "");
  const sums = [];
  let most = 1;
  for (const trace of traces) {
    if ((trace[`${letter}axis`] || letter) !== anchor) continue;
    (trace[letter] || []).forEach((value, index) => {
      if (trace.stackgroup || (stacks && trace.type === "bar")) most = Math.max(most, sums[index] = (sums[index] || 0) + (value || 0));
      else most = Math.max(most, value || 0);
    });
  }
  let step = 1;
  while (most / step > 5) step *= 2;
  const unit = Math.min(Math.floor(Math.log2(step) / 10), UNITS.length - 1);
  axis.tickmode = "array";
  axis.tickvals = Array.from({ length: Math.floor(most / step) + 2 }, (_, index) => index * step);
  axis.ticktext = axis.tickvals.map((value) => (value ? `${value / 2 ** (10 * unit)} ${UNITS[unit]}` : "0"));
}

// Plotly's axes know no time zones: what they shall show is the reader's own time.
const local = (time) => (typeof time === "number" ? time - 60000 * new Date(time).getTimezoneOffset() : time);

function put(target, path, value) {
  const steps = path.split(".");
  const last = steps.pop();
  for (const step of steps) target = target[step] ??= {};
  target[last] = value;
}

export class Figures {
  constructor(boot) {
    this.boot = boot;
    this.columns = {};
    this.dirty = new Set();
    this.places = new Map();
    for (const place of document.querySelectorAll("figure[data-figure]")) this.places.set(place.dataset.figure, place);
    this.onwindow = () => {};
    this.plotly = null;
  }

  start() {
    this.replace(this.boot.figures);
    this.append(this.boot.append);
    if (!this.places.size) return;
    for (const [name, place] of this.places) {
      const twin = place.querySelector(".twin");
      twin.addEventListener("toggle", () => { if (twin.open) this.table(name); });
    }
    // Plotly is large: it comes when the words and tables are there.
    const load = () => {
      for (const id of this.boot.marks) {
        const mark = document.createElement("meta");
        mark.id = id;
        document.head.append(mark);
      }
      const script = document.createElement("script");
      script.src = this.boot.plotly;
      script.onload = () => { this.plotly = window.Plotly; for (const name of this.places.keys()) this.mark(name); };
      document.head.append(script);
    };
    if ("requestIdleCallback" in window) requestIdleCallback(load, { timeout: 500 });
    else setTimeout(load, 50);
  }

  replace(figures) {
    for (const [name, columns] of Object.entries(figures || {})) {
      this.columns[name] = columns;
      this.mark(name);
    }
  }

  append(figures) {
    for (const [name, fresh] of Object.entries(figures || {})) {
      const columns = this.columns[name] ??= {};
      const last = columns.time?.at(-1) ?? -Infinity;
      const first = fresh.time.findIndex((time) => time > last);
      if (first < 0) continue;
      for (const [column, values] of Object.entries(fresh)) {
        columns[column] = [...(columns[column] || []), ...values.slice(first)].slice(-KEPT);
      }
      this.mark(name);
    }
  }

  repaint() {
    for (const name of this.places.keys()) this.mark(name);
  }

  mark(name) {
    if (!this.places.has(name)) return;
    if (!this.dirty.size) requestAnimationFrame(() => this.draw());
    this.dirty.add(name);
  }

  draw() {
    const names = [...this.dirty];
    this.dirty.clear();
    const style = getComputedStyle(document.documentElement);
    const paint = (name) => style.getPropertyValue(`--c-${name}`).trim();
    for (const name of names) {
      if (this.places.get(name).querySelector(".twin").open) this.table(name);
      if (this.plotly) this.react(name, paint);
    }
  }

  react(name, paint) {
    const place = this.places.get(name);
    const spec = structuredClone(this.boot.specs[name]);
    const columns = this.columns[name] || {};
    let points = 0;
    for (const trace of spec.data) {
      for (const [attribute, column] of Object.entries(trace.meta.bind)) {
        const value = dig(columns, column);
        if (value !== undefined) put(trace, attribute, /(^|\.)(time|start)$/.test(column) ? value.map(local) : value);
      }
      for (const [attribute, colour] of Object.entries(trace.meta.paint)) put(trace, attribute, paint(colour));
      const length = (trace.x || trace.ids || []).length;
      trace.visible = trace.meta.part ? trace.y.some((value) => value) : length > 0;
      points += length;
    }
    // Without any line an axis of time would show a year that Plotly makes up.
    if (points > 0 && !spec.data.some((trace) => trace.visible)) spec.data[0].visible = true;
    const layout = spec.layout;
    layout.font.color = paint("muted");
    for (const axis of ["xaxis", "yaxis", "yaxis2"]) if (layout[axis]) layout[axis].gridcolor = paint("grid");
    for (const axis of ["xaxis", "yaxis", "yaxis2"]) if (layout[axis]?.ticksuffix === "B") binary(layout[axis], axis, spec.data, layout.barmode === "stack");
    // A window that the reader chose stays; else the figure follows what the server says.
    if (columns.layout) for (const [path, value] of Object.entries(columns.layout)) put(layout, path, Array.isArray(value) ? value.map(local) : value);
    if (name === "stream") layout.showlegend = false; // the page's own names the types, with their time
    if (name === "stream") layout.uirevision = `${this.boot.args.from}-${this.boot.args.to}`;
    place.querySelector(".unplotted").hidden = points > 0;
    const plot = place.querySelector(".plot");
    plot.hidden = points === 0;
    if (!points) return;
    layout.autosize = true;
    const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: name === "graph" };
    const first = !plot.data;
    this.plotly.react(plot, spec.data, layout, config);
    if (first) this.listen(name, plot);
  }

  listen(name, plot) {
    if (name === "stream") {
      plot.on("plotly_relayout", (change) => {
        clearTimeout(this.moving);
        const from = change["xaxis.range[0]"], to = change["xaxis.range[1]"];
        if (from !== undefined && to !== undefined) {
          const seconds = (text) => (new Date(String(text).replace(" ", "T")).getTime() / 1000).toFixed(3);
          this.moving = setTimeout(() => this.onwindow({ from: seconds(from), to: seconds(to) }), 150);
        }
      });
    }
    plot.on("plotly_click", (event) => {
      const name_ = event.points[0]?.data.meta.links?.[event.points[0].pointNumber];
      if (name_) location.href = this.boot.task + (name === "graph" && this.boot.args.by !== "task" ? "s?q=" + encodeURIComponent(`type:"${name_}"`) : "?key=" + encodeURIComponent(name_));
    });
  }

  table(name) {
    const columns = this.columns[name] || {};
    const flat = Object.entries(columns).filter(([key, value]) => Array.isArray(value) && key !== "layout");
    const box = this.places.get(name).querySelector(".twin > div");
    box.textContent = "";
    if (!flat.length) { box.textContent = "The page's own tables have these numbers."; return; }
    const table = document.createElement("table");
    table.className = "rows";
    const head = table.createTHead().insertRow();
    for (const [column] of flat) {
      const cell = document.createElement("th");
      cell.textContent = column;
      head.append(cell);
    }
    const body = table.createTBody();
    const count = Math.max(...flat.map(([, values]) => values.length));
    for (let index = count - 1; index >= Math.max(0, count - 100); index -= 1) {
      const row = body.insertRow();
      for (const [column, values] of flat) {
        const value = values[index];
        row.insertCell().textContent = column === "time" ? new Date(value).toLocaleTimeString() : typeof value === "number" ? String(Math.round(value * 1000) / 1000) : String(value ?? "");
      }
    }
    box.append(table);
  }
}
