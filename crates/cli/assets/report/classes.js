
/* Which classes are taken for each other, and how far apart their items are. */
var MATRIX = 20, LISTED = 15;
var BINS = 48;
var classVariant = bestVariant();

function meter(part) {
  var element = make("span", { "class": "meter" });
  element.style.setProperty("--part", part.toFixed(4));
  return element;
}

function matrix(confusion, present) {
  var most = confusion.pairs.length ? confusion.pairs[0][2] : 1, counts = {};
  confusion.pairs.forEach(function (pair) { counts[pair[0] + "," + pair[1]] = pair[2]; });
  var head = make("tr", {}, make("th", {}));
  present.forEach(function (label) { head.appendChild(make("th", { scope: "col" }, className(label))); });
  var body = make("tbody", {});
  present.forEach(function (own) {
    var row = make("tr", {}, make("th", { scope: "row" }, className(own)));
    present.forEach(function (found) {
      var count = own === found ? confusion.right[own] : counts[own + "," + found] || 0;
      var cell = make("td", {
        title: data.classes[own] + " found " + data.classes[found] + " first: " + count + " of " + confusion.queries[own]
      }, count ? String(count) : "");
      if (own === found) cell.className = "own";
      else if (count) {
        var strength = 0.08 + 0.92 * count / most;
        cell.style.background = "rgba(" + cssColour("--heat") + "," + strength.toFixed(3) + ")";
        if (strength > 0.55) cell.style.color = cssColour("--paper");
      }
      row.appendChild(cell);
    });
    body.appendChild(row);
  });
  return make("div", { "class": "scroll" },
    make("p", { "class": "hint" }, "Rows: the query's class. Columns: the class of what it found first."),
    make("table", { "class": "matrix" }, make("thead", {}, head), body));
}

function pairBars(confusion) {
  var list = make("ol", { "class": "bars" });
  confusion.pairs.slice(0, LISTED).forEach(function (pair) {
    var part = pair[2] / confusion.queries[pair[0]];
    list.appendChild(make("li", {},
      make("span", { "class": "pair" }, className(pair[0]), "→", className(pair[1])), meter(part),
      make("span", {}, pair[2] + "/" + confusion.queries[pair[0]])));
  });
  return make("div", {}, make("p", { "class": "hint" }, "A query's class → the class of what it found first; the most frequent first."), list);
}

function accuracyBars(confusion, present, all) {
  var list = make("ol", { "class": "bars" });
  var order = present.slice().sort(function (a, b) {
    return confusion.right[a] / confusion.queries[a] - confusion.right[b] / confusion.queries[b] || a - b;
  });
  order.slice(0, all ? order.length : MATRIX).forEach(function (label) {
    var part = confusion.right[label] / confusion.queries[label];
    list.appendChild(make("li", {}, className(label), meter(part), make("span", {}, percent(part))));
  });
  var more = !all && order.length > MATRIX
    ? make("button", { type: "button", "class": "more", click: function () { replace(byId("accuracy"), accuracyBars(confusion, present, true)); } },
        "All " + order.length + " classes")
    : null;
  return make("div", {}, make("p", { "class": "hint" }, "Share of a class's queries that found their own class first, the lowest first."), list, more);
}

function drawClasses() {
  var confusion = data.variants[classVariant].confusion;
  var present = confusion.queries.map(function (count, label) { return count ? label : -1; }).filter(function (label) { return label >= 0; });
  replace(byId("confusion"), !confusion.pairs.length ? make("p", { "class": "calm" }, "Every query found its own class first.")
    : present.length <= MATRIX ? matrix(confusion, present) : pairBars(confusion));
  replace(byId("accuracy"), accuracyBars(confusion, present, false));
}

function startClasses() {
  replace(byId("class-controls"), choice("Embeddings", variantNames(), classVariant, function (index) {
    classVariant = index;
    drawClasses();
  }));
  drawClasses();
  show("classes");
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawClasses);
}

/* Where nearly all of both kinds lie, in bins of the data. */
function reach(distances) {
  return [distances.positive, distances.negative].reduce(function (most, counts) {
    var all = counts.reduce(function (a, b) { return a + b; }, 0), sum = 0, bin = 0;
    while (bin < counts.length && sum < 0.998 * all) sum += counts[bin++];
    return Math.max(most, bin);
  }, 4);
}

function histogram(variant) {
  var distances = variant.distances, width = 2 / distances.positive.length;
  var wide = Math.max(1, Math.ceil(reach(distances) / BINS)), last = Math.ceil(reach(distances) / wide);
  function shares(counts) {
    var sum = counts.reduce(function (a, b) { return a + b; }, 0) || 1, out = [];
    for (var bin = 0; bin < last; bin++) {
      out.push(counts.slice(bin * wide, (bin + 1) * wide).reduce(function (a, b) { return a + b; }, 0) / sum);
    }
    return out;
  }
  var same = shares(distances.positive), other = shares(distances.negative);
  var most = Math.max.apply(null, same.concat(other)) || 1;
  function x(bin) { return 8 + bin / last * (WIDTH - 16); }
  function y(share) { return HEIGHT - BOTTOM - share / most * (HEIGHT - TOP - BOTTOM); }
  function area(shares) {
    var d = "M" + x(0) + " " + y(0);
    shares.forEach(function (share, bin) { d += "L" + x(bin).toFixed(1) + " " + y(share).toFixed(1) + "H" + x(bin + 1).toFixed(1); });
    return d + "L" + x(last) + " " + y(0) + "Z";
  }
  var svg = makeSvg("svg", { viewBox: "0 0 " + WIDTH + " " + HEIGHT, role: "img", "aria-label": "Distances, " + variant.name },
    makeSvg("line", { "class": "grid", x1: 8, x2: WIDTH - 8, y1: y(0), y2: y(0) }));
  var marks = ticks(0, last * wide * width, 5);
  marks.forEach(function (value) {
    svg.appendChild(makeSvg("text", { x: x(value / width / wide), y: HEIGHT - 6, "text-anchor": "middle" }, tickLabel(value, marks[1] - marks[0] || 1)));
  });
  [[other, "--other"], [same, "--same"]].forEach(function (pair) {
    var path = makeSvg("path", { d: area(pair[0]), "fill-opacity": 0.35, "stroke-width": 1.4 });
    path.style.fill = path.style.stroke = "var(" + pair[1] + ")";
    svg.appendChild(path);
  });
  var order = distances.order === null ? null : make("span", {}, "in order: " + percent(distances.order));
  return make("figure", { "class": "chart" }, make("figcaption", {}, make("span", {}, variant.name), order), svg);
}

function drawDistances() {
  data.variants.forEach(function (variant) { byId("histograms").appendChild(histogram(variant)); });
  show("distances");
}
