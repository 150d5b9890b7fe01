"use strict";
// What the server sends is put in as text only: names, interfaces and descriptions
// come from the network.
(() => {
  const $ = (id) => document.getElementById(id);
  const history = 600; // s
  const chartHeight = 230; // px, without the legend

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
  const shown = {};
  const fill = (id, list, row, nothing) => {
    const text = JSON.stringify(list);
    if (shown[id] === text) return;
    shown[id] = text;
    const table = $(id);
    let rows = list.map(row);
    if (rows.length === 0) {
      const cell = element("td", "empty", nothing);
      cell.colSpan = table.tHead.rows[0].cells.length;
      rows = [element("tr", "", cell)];
    }
    table.tBodies[0].replaceChildren(...rows);
  };

  const share = (s) => element("tr", "", named(s.name, s.host), element("td", "n", octets(s.octets)), element("td", "n", count(s.connections)));
  const connection = (c) => {
    const remarks = [];
    if (!c.answered) remarks.push("one side only");
    if (!c.final) remarks.push("goes on");
    if (c.direction === "arbitrary") remarks.push("direction unknown");
    return element("tr", "",
      element("td", "", c.start ? new Date(c.start).toISOString().replace("T", " ").slice(0, 19) : "–"),
      element("td", "", c.service), named(c.initiator, c.initiator_name), element("td", "", "→"), named(c.responder, c.responder_name),
      element("td", "n", octets(c.octets)), element("td", "n", count(c.packets)), element("td", "n", seconds(c.seconds)),
      element("td", "", c.via || ""), element("td", "", remarks.join(", ")));
  };
  const exporter = (e) => element("tr", "",
    named(e.exporter, e.name), element("td", "", e.version === 10 ? "IPFIX" : "v" + e.version), element("td", "n", String(e.domain)),
    element("td", "n", count(e.flows)), element("td", "n", e.flows_per_second.toFixed(1)),
    element("td", /^[1-9]/.test(e.lost) ? "warn" : "", e.lost), element("td", "", e.templates), element("td", e.silent ? "warn" : "", e.last_seen));

  // The chart: its data are seconds, flows a second, bits a second.
  const data = [[], [], []];
  let chart;
  const draw = () => {
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const box = $("chart");
    if (chart) chart.destroy();
    const axis = (extra) => ({ stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, ...extra });
    chart = new uPlot({
      width: box.clientWidth, height: chartHeight,
      tzDate: (t) => uPlot.tzDate(new Date(t * 1000), "Etc/UTC"),
      cursor: { y: false },
      scales: { x: { time: true }, flows: { range: (_, lo, hi) => [0, Math.max(hi, 1)] }, bits: { range: (_, lo, hi) => [0, Math.max(hi, 1)] } },
      series: [
        { label: "UTC", value: (_, t) => t ? new Date(t * 1000).toISOString().slice(11, 19) : "–" },
        { label: "flows/s", scale: "flows", stroke: colour("--flows"), width: 2, value: (_, v) => v == null ? "–" : count(v) },
        { label: "bits/s", scale: "bits", stroke: colour("--bits"), width: 2, dash: [6, 4], value: (_, v) => v == null ? "–" : bits(v) },
      ],
      axes: [
        axis({ space: 90, values: (_, all) => all.map((t) => new Date(t * 1000).toISOString().slice(11, 19)) }),
        axis({ scale: "flows", size: 60, values: (_, all) => all.map((v) => scaled(v, ["", "k", "M"]).trim()) }),
        axis({ scale: "bits", side: 1, size: 80, grid: { show: false }, values: (_, all) => all.map(bits) }),
      ],
    }, data, box);
  };
  const add = (series) => {
    for (const [at, flows, bytes] of series) {
      if (data[0].length && at <= data[0][data[0].length - 1]) continue;
      data[0].push(at); data[1].push(flows); data[2].push(8 * bytes);
    }
    while (data[0].length > history) for (const d of data) d.shift();
  };

  let paused = false;
  const show = (s) => {
    add(s.series);
    if (paused) return;
    const last = data[0].length - 1;
    $("total-flows").textContent = count(s.totals.flows);
    $("total-octets").textContent = octets(s.totals.octets);
    $("total-packets").textContent = count(s.totals.packets);
    $("total-connections").textContent = count(s.totals.connections);
    const dropped = s.totals.kernel_drops;
    $("total-dropped").textContent = count(dropped);
    $("total-dropped").classList.toggle("warn", dropped > 0);
    $("now-flows").textContent = last < 0 ? "–" : count(data[1][last]);
    $("now-bits").textContent = last < 0 ? "–" : bits(data[2][last]);
    fill("talkers", s.talkers, share, "nobody yet");
    fill("services", s.services, share, "none yet");
    fill("exporters", s.exporters, exporter, "none yet: they are listed ten seconds after their first datagram");
    fill("newest", s.connections, connection, "none yet: a connection is listed when it closes");
    if (last >= 0) {
      chart.setData(data);
      $("chart").setAttribute("aria-label", `The last ${last + 1} seconds: ${count(data[1][last])} flows a second now, ${count(Math.max(...data[1]))} at most; ${bits(data[2][last])} now, ${bits(Math.max(...data[2]))} at most`);
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
  draw();
  new ResizeObserver(() => chart.setSize({ width: $("chart").clientWidth, height: chartHeight })).observe($("chart"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  const events = new EventSource("events");
  events.onmessage = (e) => {
    const s = JSON.parse(e.data);
    const dropped = s.totals.kernel_drops;
    if (!paused) say(dropped > 0 ? "live, but this host drops datagrams" : "live", dropped > 0);
    show(s);
  };
  events.onerror = () => say("weir does not answer; trying again", true);
})();
