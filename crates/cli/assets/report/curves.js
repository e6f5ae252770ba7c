
/* Line charts of what every epoch measured. A line: {name, colour, points: [[epoch, value]], dashed}. */
var WIDTH = 340, HEIGHT = 170, LEFT = 44, RIGHT = 10, TOP = 12, BOTTOM = 24;

/* The colour of a line: the classes' are for areas, and some too pale for a line on the page. */
function curveColour(index) {
  return "var(--curve-" + index % 6 + ")";
}

/* `value` with as many digits as tell it from its neighbours `step` away. */
function tickLabel(value, step) {
  var digits = Math.max(0, -Math.floor(Math.log(step) / Math.LN10 + 1e-9));
  return digits > 5 ? short(value) : value.toFixed(digits);
}

function ticks(low, high, count) {
  var rough = (high - low) / count || 1;
  var power = Math.pow(10, Math.floor(Math.log(rough) / Math.LN10));
  var step = [1, 2, 5, 10].filter(function (s) { return s * power >= rough * 0.999; })[0] * power;
  var out = [];
  for (var at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) {
    out.push(Math.abs(at) < step * 1e-9 ? 0 : at);
  }
  return out;
}

/* `most`: what no value exceeds, and no mark of the axis either. */
function lineChart(title, lines, most) {
  lines = lines.filter(function (line) { return line.points.length > 0; });
  var all = [];
  lines.forEach(function (line) { all = all.concat(line.points); });
  if (!all.length) return null;
  var epochs = all.map(function (p) { return p[0]; }), values = all.map(function (p) { return p[1]; });
  var first = Math.min.apply(null, epochs), last = Math.max.apply(null, epochs);
  var low = Math.min.apply(null, values), high = Math.max.apply(null, values);
  if (low > 0 && low < 0.6 * high) low = 0;
  if (high === low) { high += Math.abs(high) * 0.1 || 1; low -= Math.abs(low) * 0.1; }
  var room = (high - low) * 0.06;
  if (low !== 0) low -= room;
  high += room;
  /* Room above what no value exceeds would be room for nothing. */
  if (most !== undefined) high = Math.min(high, most + (most - low) * 0.06);
  function x(epoch) { return LEFT + (last > first ? (epoch - first) / (last - first) : 0.5) * (WIDTH - LEFT - RIGHT); }
  function y(value) { return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM); }
  var svg = makeSvg("svg", { viewBox: "0 0 " + WIDTH + " " + HEIGHT, role: "img", "aria-label": title });
  var marks = ticks(low, most === undefined ? high : Math.min(high, most), 4);
  marks.forEach(function (value) {
    svg.appendChild(makeSvg("line", { "class": "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
    svg.appendChild(makeSvg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, tickLabel(value, marks[1] - marks[0] || 1)));
  });
  ticks(first, last, 6).filter(function (e) { return Math.abs(e - Math.round(e)) < 1e-6; }).forEach(function (epoch) {
    svg.appendChild(makeSvg("text", { x: x(epoch), y: HEIGHT - 6, "text-anchor": "middle" }, String(Math.round(epoch))));
  });
  var cross = svg.appendChild(makeSvg("line", { "class": "cross", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" }));
  lines.forEach(function (line) {
    var d = line.points.map(function (p, at) { return (at ? "L" : "M") + x(p[0]).toFixed(1) + " " + y(p[1]).toFixed(1); }).join("");
    var path = makeSvg("path", {
      "class": "curve", d: d, fill: "none", "stroke-width": 2, "stroke-linejoin": "round",
      "stroke-dasharray": line.dashed ? "4 4" : null
    });
    path.style.stroke = line.colour;
    svg.appendChild(path);
    if (!line.dashed && line.points.length <= 40) {
      line.points.forEach(function (p) {
        var dot = makeSvg("circle", { cx: x(p[0]), cy: y(p[1]), r: 2.8 });
        dot.style.fill = line.colour;
        svg.appendChild(dot);
      });
    }
  });
  var reading = make("span", {});
  function read(epoch) {
    var parts = lines.filter(function (line) { return !line.dashed; }).map(function (line) {
      var at = line.points.filter(function (p) { return p[0] === epoch; })[0];
      return at ? short(at[1]) : "–";
    });
    reading.textContent = "epoch " + epoch + ": " + parts.join(", ");
  }
  read(last);
  svg.addEventListener("pointermove", function (event) {
    var box = svg.getBoundingClientRect();
    var wanted = (event.clientX - box.left) / box.width * WIDTH;
    var epoch = epochs.reduce(function (best, e) { return Math.abs(x(e) - wanted) < Math.abs(x(best) - wanted) ? e : best; });
    cross.setAttribute("x1", x(epoch));
    cross.setAttribute("x2", x(epoch));
    cross.setAttribute("visibility", "visible");
    read(epoch);
  });
  svg.addEventListener("pointerleave", function () {
    cross.setAttribute("visibility", "hidden");
    read(last);
  });
  var keys = make("ul", { "class": "keys" });
  if (lines.length > 1) {
    lines.forEach(function (line) {
      var swatch = make("i", {});
      swatch.style.background = line.colour;
      keys.appendChild(make("li", {}, swatch, line.name));
    });
  }
  return make("figure", { "class": "chart" }, make("figcaption", {}, make("span", {}, title), reading), svg, keys);
}

function drawCurves() {
  var several = data.runs.length > 1;
  function line(run, index, of, name, colour) {
    var points = run.records
      .map(function (record) { return [record.epoch, of(record)]; })
      .filter(function (p) { return p[1] !== null && p[1] !== undefined; });
    return { name: name || run.name, colour: colour || curveColour(index), points: points };
  }
  function chart(title, of, most) {
    return lineChart(title, data.runs.map(function (run, index) { return line(run, index, of); }), most);
  }
  var charts = [];
  data.runs.forEach(function (run, index) {
    charts.push(lineChart(several ? "Loss, " + run.name : "Loss", [line(run, index, function (r) { return r.loss; })]));
  });
  var recall = data.runs.map(function (run, index) {
    return line(run, index, function (r) {
      // Where the evaluation items are for the end, what was kept is all that was measured.
      var of = r.metrics || (r.kept && r.kept.metrics);
      return of && of.recall_at_1;
    }, several ? run.name : "tuned");
  });
  var held = data.runs.map(function (run, index) {
    return line(run, index, function (r) { return r.validation && r.validation.recall_at_1; },
      (several ? run.name + ", " : "") + "held out", curveColour(index + 3));
  });
  var start = data.runs[0].records[0];
  var ends = data.runs[0].records.map(function (r) { return r.epoch; });
  if (start && start.raw) {
    recall.push({
      name: "raw", dashed: true, colour: "var(--curve-rest)",
      points: [[ends[0], start.raw.recall_at_1], [ends[ends.length - 1], start.raw.recall_at_1]]
    });
  }
  charts.push(lineChart("Recall@1", recall.concat(held), 1));
  charts.push(lineChart("Learning rate", data.runs.reduce(function (lines, run, index) {
    return lines.concat(
      index === 0 ? [line(run, index, function (r) { return r.learning_rate; }, "encoder", several ? "var(--curve-rest)" : undefined)] : [],
      [line(run, index, function (r) { return r.loss_learning_rate; }, several ? "centres, " + run.name : "class centres", curveColour(several ? index : 1))]
    );
  }, [])));
  charts.push(chart("Share that carries a gradient", function (r) { return r.active_fraction; }, 1));
  charts.push(chart("Training accuracy", function (r) { return r.accuracy; }, 1));
  charts.push(chart("GeM's p", function (r) { return r.gem_p; }));
  charts.filter(Boolean).forEach(function (chart) { byId("curves").appendChild(chart); });
  show("training");
}
