"use strict";
// What the server sends is put in as text only: names, interfaces and descriptions
// come from the network.
(() => {
  const $ = (id) => document.getElementById(id);
  const history = 600; // s
  const chartHeight = 170; // px, without the legend

  const scaled = (n, units) => {
    let i = 0;
    while (n >= 999.5 && i < units.length - 1) { n /= 1000; i++; }
    const digits = i === 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2;
    return n.toFixed(digits) + " " + units[i];
  };
  const octets = (n) => scaled(n, ["B", "kB", "MB", "GB", "TB", "PB"]);
  const bits = (n) => scaled(n, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]);
  const count = (n) => n.toLocaleString("en");
  const seconds = (s) => {
    if (s < 59.95) return s.toFixed(1) + " s";
    const two = (n) => String(n).padStart(2, "0");
    const t = Math.round(s);
    return t < 3600 ? `${Math.floor(t / 60)}:${two(t % 60)} min` : `${Math.floor(t / 3600)}:${two(Math.floor(t / 60) % 60)}:${two(t % 60)} h`;
  };

  // element makes an element of texts and elements.
  const element = (tag, className, ...content) => {
    const e = document.createElement(tag);
    if (className) e.className = className;
    e.append(...content);
    return e;
  };
  const named = (text, name) => {
    const cell = element("td", "", text);
    if (name) cell.append(element("span", "name", name));
    return cell;
  };

  // fill replaces the rows of a table, when they have changed.
  // Roles are set because some browsers take the table's meaning away when cards are laid out by CSS.
  const shown = {};
  const fill = (id, list, row, nothing) => {
    const text = JSON.stringify([list, nothing]);
    if (shown[id] === text) return;
    shown[id] = text;
    const table = $(id);
    const headings = [...table.tHead.rows[0].cells];
    let rows = list.map(row);
    for (const r of rows) {
      r.setAttribute("role", "row");
      [...r.cells].forEach((cell, i) => {
        cell.setAttribute("role", "cell");
        cell.dataset.label = headings[i].querySelector(".only") ? "" : headings[i].textContent;
      });
    }
    if (rows.length === 0) {
      const cell = element("td", "empty", nothing);
      cell.colSpan = table.tHead.rows[0].cells.length;
      rows = [element("tr", "", cell)];
    }
    table.tBodies[0].replaceChildren(...rows);
  };

  for (const table of document.querySelectorAll("table")) {
    table.setAttribute("role", "table");
    table.tHead.setAttribute("role", "rowgroup");
    table.tBodies[0].setAttribute("role", "rowgroup");
    table.tHead.rows[0].setAttribute("role", "row");
    for (const cell of table.tHead.rows[0].cells) cell.setAttribute("role", "columnheader");
  }

  const share = (s) => element("tr", "", named(s.name, s.host), element("td", "n", bits(s.rate)), element("td", "n", octets(s.octets)));
  const connection = (c, first, rate) => {
    const remarks = [];
    if (!c.answered) remarks.push("one side only");
    if (c.direction === "arbitrary" || c.direction === "first seen" && rate.length) remarks.push("direction unknown");
    return element("tr", "", ...first,
      element("td", "", c.service), named(c.initiator, c.initiator_name), element("td", "", "→"), named(c.responder, c.responder_name),
      ...rate, element("td", "n", octets(c.octets)), element("td", "n", count(c.packets)), element("td", "n", seconds(c.seconds)),
      element("td", "long", c.via || ""), element("td", "long", remarks.join(", ")));
  };
  const running = (c) => connection(c, [], [element("td", "n", bits(c.rate))]);
  const ended = (c) => connection(c, [element("td", "", c.start ? new Date(c.start).toISOString().replace("T", " ").slice(0, 19) : "–")], []);
  const exporter = (e) => element("tr", "",
    named(e.exporter, e.name), element("td", "", e.version === 10 ? "IPFIX" : "v" + e.version), element("td", "n", String(e.domain)),
    element("td", "n", count(e.flows)), element("td", "n", e.flows_per_second.toFixed(1)),
    element("td", /^[1-9]/.test(e.lost) ? "warn" : "", e.lost), element("td", "", e.templates), element("td", e.silent ? "warn" : "", e.last_seen));

  // The charts: their data are seconds, and bits or flows a second.
  const points = new Map(); // second: [flows, octets]
  let data = [[], [], []]; // seconds, bits a second, flows a second
  let charts = [];
  let zoomed = false;
  let completeUntil = Infinity; // s; traffic of later seconds is still being reported
  const time = (t) => new Date(t * 1000).toISOString().slice(11, 19);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // shade marks the seconds for which traffic is still being reported.
  const shade = (u) => {
    const from = Math.max(u.valToPos(completeUntil, "x", true), u.bbox.left);
    const to = u.bbox.left + u.bbox.width;
    if (!(from < to)) return;
    u.ctx.save();
    u.ctx.fillStyle = colour("--shade");
    u.ctx.fillRect(from, u.bbox.top, to - from, u.bbox.height);
    u.ctx.restore();
  };
  // follow gives the other chart the range of u, and notes whether it is a part of the data.
  let following = false;
  const follow = (u, key) => {
    if (key !== "x" || following || data[0].length === 0) return;
    const { min, max } = u.scales.x;
    zoomed = min > data[0][0] || max < data[0][data[0].length - 1];
    $("all").hidden = !zoomed;
    following = true;
    for (const other of charts) if (other !== u) other.setScale("x", { min, max });
    following = false;
  };
  const makeChart = (id, label, name, format, values, hooks) => {
    const axis = (extra) => ({ stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, ...extra });
    return new uPlot({
      width: $(id).clientWidth, height: chartHeight,
      tzDate: (t) => uPlot.tzDate(new Date(t * 1000), "Etc/UTC"),
      cursor: { y: false, sync: { key: "time" } },
      hooks: { setScale: [follow], ...hooks },
      scales: { x: { time: true }, y: { range: (_, lo, hi) => [0, Math.max(hi, 1)] } },
      series: [
        { label: "UTC", value: (_, t) => t ? time(t) : "–" },
        { label, stroke: colour(name), width: 2, value: (_, v) => v == null ? "–" : format(v) },
      ],
      axes: [
        axis({ space: 90, values: (_, all) => all.map(time) }),
        axis({ size: 90, values: (_, all) => all.map(format) }),
      ],
    }, values, $(id));
  };
  const ids = ["bits-chart", "flows-chart"];
  const draw = () => {
    for (const c of charts) c.destroy();
    charts = [];
    charts = [
      makeChart(ids[0], "traffic", "--bits", bits, [data[0], data[1]], { drawClear: [shade] }),
      makeChart(ids[1], "flows/s", "--flows", (v) => scaled(v, ["", "k", "M"]).trim(), [data[0], data[2]], {}),
    ];
  };
  const update = () => {
    zoomed ? charts.forEach((c, i) => c.setData([data[0], data[i + 1]], false)) : charts.forEach((c, i) => c.setData([data[0], data[i + 1]]));
    if (zoomed) charts.forEach((c) => c.redraw());
  };
  // add replaces the seconds of a snapshot: octets of past seconds grow while their flows are reported.
  const add = (s) => {
    for (const [at, flows, bytes] of s.series) points.set(at, [flows, bytes]);
    let first = s.now;
    for (const at of points.keys()) at < s.now - history ? points.delete(at) : first = Math.min(first, at);
    data = [[], [], []];
    for (let at = first; at < s.now; at++) {
      const p = points.get(at);
      data[0].push(at); data[1].push(p ? 8 * p[1] : null); data[2].push(p ? p[0] : null);
    }
    completeUntil = s.incomplete > 1 ? s.now - s.incomplete : Infinity;
  };

  let paused = false;
  const show = (s) => {
    add(s);
    if (paused) return;
    const last = data[0].length - 1;
    $("total-flows").textContent = count(s.totals.flows);
    $("total-octets").textContent = octets(s.totals.octets);
    $("total-packets").textContent = count(s.totals.packets);
    $("total-connections").textContent = count(s.totals.connections);
    const dropped = s.totals.kernel_drops;
    $("total-dropped").textContent = count(dropped);
    $("total-dropped").classList.toggle("warn", dropped > 0);
    $("now-flows").textContent = (s.flow_rate < 10 ? s.flow_rate.toFixed(1) : count(Math.round(s.flow_rate))) + " flows/s";
    $("now-bits").textContent = bits(s.rate);
    const over = s.window === 60 ? "minute" : s.window / 60 + " minutes";
    fill("progress", s.in_progress, running, `none with traffic in the last ${over}`);
    fill("talkers", s.talkers, share, `none with traffic in the last ${over}`);
    fill("services", s.services, share, `none with traffic in the last ${over}`);
    fill("exporters", s.exporters || [], exporter, s.exporters ? "none yet" : "not known yet: the list comes ten seconds after the start");
    fill("newest", s.connections, ended, "none yet: a connection is listed here when it closes");
    const note = $("bits-note");
    note.hidden = completeUntil === Infinity;
    note.textContent = `Shaded: the last ${s.incomplete} s, whose traffic exporters are still reporting.`;
    if (last >= 0) {
      update();
      const known = data[1].filter((v, i) => v != null && data[0][i] < completeUntil);
      $(ids[0]).setAttribute("aria-label", `The last ${last + 1} seconds: ${bits(s.rate)} in the last minute, ${bits(Math.max(0, ...known))} at most`);
      $(ids[1]).setAttribute("aria-label", `The last ${last + 1} seconds: ${count(data[2][last] || 0)} flow records in the last, ${count(Math.max(...data[2]))} at most`);
    }
  };

  const say = (text, lost) => {
    const status = $("status");
    if (status.textContent !== text) status.textContent = text;
    status.classList.toggle("lost", lost);
  };
  $("pause").addEventListener("click", () => {
    paused = !paused;
    $("pause").setAttribute("aria-pressed", String(paused));
    say(paused ? "paused" : "live", false);
  });
  $("all").addEventListener("click", () => {
    zoomed = false;
    $("all").hidden = true;
    update();
  });
  draw();
  new ResizeObserver(() => charts.forEach((c, i) => c.setSize({ width: $(ids[i]).clientWidth, height: chartHeight }))).observe($(ids[0]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  let events;
  const listen = () => {
    if (events) events.close();
    events = new EventSource("events?window=" + $("window").value);
    events.onmessage = (e) => {
      const s = JSON.parse(e.data);
      const dropped = s.totals.kernel_drops;
      if (!paused) say(dropped > 0 ? "live, but this host drops datagrams" : "live", dropped > 0);
      show(s);
    };
    events.onerror = () => say("weir does not answer; trying again", true);
  };
  $("window").addEventListener("change", listen);
  listen();
})();
