
/* The projection: a panel for each variant, linked by the item under the pointer. */
var hidden = {};
var panels = [];
var focus = null; /* {entry, panel, pinned} */

function Panel(variant, index) {
  var self = this;
  this.variant = variant;
  this.index = index;
  this.scale = 1;
  this.shift = [0, 0];
  /* Where the keyboard was last. */
  this.cursor = -1;
  this.points = document.createElement("canvas");
  this.over = document.createElement("canvas");
  this.stage = make("div", {
    "class": "stage", tabindex: "0", role: "application", "aria-roledescription": "scatter plot",
    "aria-label": "Projection, " + variant.name, "aria-describedby": "keys"
  }, this.points, this.over);
  var recall = variant.quality ? make("small", {}, "Recall@1 " + variant.quality.recall_at_1.toFixed(3)) : null;
  function button(sign, label, act) { return make("button", { type: "button", "aria-label": label, title: label, click: act }, sign); }
  this.element = make("figure", { "class": "panel" },
    make("figcaption", {}, make("span", {}, variant.name, " ", recall),
      button("+", "Zoom in", function () { self.zoom(1.6, self.side / 2, self.side / 2); }),
      button("−", "Zoom out", function () { self.zoom(1 / 1.6, self.side / 2, self.side / 2); }),
      button("⟲", "Whole picture", function () { self.reset(); })),
    this.stage);
  this.listen();
}

Panel.prototype.resize = function () {
  this.side = this.stage.clientWidth;
  this.ratio = Math.min(window.devicePixelRatio || 1, 2);
  [this.points, this.over].forEach(function (canvas) {
    canvas.width = canvas.height = Math.max(1, Math.round(this.side * this.ratio));
  }, this);
};

Panel.prototype.place = function (entry) {
  var edge = 14, grid = 4095, places = this.variant.places, inner = this.side - 2 * edge;
  return [
    (edge + places[2 * entry] / grid * inner) * this.scale + this.shift[0],
    (edge + places[2 * entry + 1] / grid * inner) * this.scale + this.shift[1]
  ];
};

Panel.prototype.size = function () {
  var base = Math.max(1.6, Math.min(3.6, 75 / Math.sqrt(entries.shown) * this.side / 400));
  return base * Math.min(2.2, Math.sqrt(this.scale));
};

/* A path for each class: ten thousand points are a few dozen calls. */
Panel.prototype.draw = function () {
  var context = this.points.getContext("2d"), size = this.size(), side = this.side;
  context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
  context.clearRect(0, 0, side, side);
  var paths = {};
  for (var entry = 0; entry < entries.shown; entry++) {
    var label = entries.class[entry];
    if (hidden[label]) continue;
    var at = this.place(entry);
    if (at[0] < -9 || at[1] < -9 || at[0] > side + 9 || at[1] > side + 9) continue;
    if (!paths[label]) paths[label] = new Path2D();
    tracePath(paths[label], shapeOf(label), at[0], at[1], size);
  }
  /* A dark edge on a light page, a light one on a dark page: pale colours stand out too. Small points would be all edge. */
  context.lineWidth = 0.6;
  context.strokeStyle = cssColour("--ink");
  Object.keys(paths).forEach(function (label) {
    context.fillStyle = colourOf(Number(label));
    context.globalAlpha = 0.9;
    context.fill(paths[label]);
    context.globalAlpha = size < 2.2 ? 0.1 : 0.22;
    context.stroke(paths[label]);
  });
  context.globalAlpha = 1;
  this.highlight();
};

/* The item in focus, with lines to its neighbours in this variant. */
Panel.prototype.highlight = function () {
  var context = this.over.getContext("2d"), size = this.size() + 1.5, self = this;
  context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
  context.clearRect(0, 0, this.side, this.side);
  if (!focus) return;
  var from = this.place(focus.entry), own = entries.class[focus.entry];
  context.lineWidth = 1.2;
  this.variant.near[focus.entry].filter(function (near) { return near < entries.shown && !entries.gallery[near]; }).forEach(function (near) {
    var to = self.place(near), label = entries.class[near];
    context.strokeStyle = cssColour(label === own ? "--right" : "--wrong");
    context.beginPath();
    context.moveTo(from[0], from[1]);
    context.lineTo(to[0], to[1]);
    context.stroke();
    ring(to, label, size);
  });
  context.lineWidth = 2;
  context.strokeStyle = cssColour("--ink");
  ring(from, own, size + 1.5);
  /* Where the keyboard is. */
  if (document.activeElement === this.stage && focus.panel === this && focus.keyed) {
    context.strokeStyle = cssColour("--accent");
    context.beginPath();
    context.arc(from[0], from[1], size + 7, 0, 6.2832);
    context.stroke();
  }
  function ring(at, label, size) {
    var path = new Path2D();
    tracePath(path, shapeOf(label), at[0], at[1], size);
    context.fillStyle = colourOf(label);
    context.fill(path);
    context.stroke(path);
  }
};

/* The nearest visible item within reach of a place on the stage, or -1. */
Panel.prototype.find = function (x, y, reach) {
  var best = -1, least = reach * reach;
  for (var entry = 0; entry < entries.shown; entry++) {
    if (hidden[entries.class[entry]]) continue;
    var at = this.place(entry), dx = at[0] - x, dy = at[1] - y, squared = dx * dx + dy * dy;
    if (squared < least) {
      least = squared;
      best = entry;
    }
  }
  return best;
};

/* The visible item that an arrow key leads to from a place: the nearest one within 45 degrees of its direction, or -1. */
Panel.prototype.toward = function (from, dx, dy) {
  var best = -1, least = Infinity;
  for (var entry = 0; entry < entries.shown; entry++) {
    if (hidden[entries.class[entry]]) continue;
    var at = this.place(entry), x = at[0] - from[0], y = at[1] - from[1];
    var along = x * dx + y * dy, across = Math.abs(x * dy + y * dx), squared = x * x + y * y;
    if (along > 0 && across <= along && squared < least) {
      least = squared;
      best = entry;
    }
  }
  return best;
};

/* The next visible item in the order of the data, or with -1 the one before; from the last on to the first. */
Panel.prototype.beside = function (entry, step) {
  for (var turn = 0, count = entries.shown; turn < count; turn++) {
    entry = (entry + step + count) % count;
    if (!hidden[entries.class[entry]]) return entry;
  }
  return -1;
};

/* What a key does with the items: the entry that it leads to, -1 for none, null for a key of another meaning. */
Panel.prototype.keyed = function (key) {
  var arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  var here = focus && focus.panel === this ? focus.entry : this.cursor, middle = [this.side / 2, this.side / 2];
  if (here >= 0 && hidden[entries.class[here]]) here = -1;
  if (arrows[key]) {
    return here < 0 ? this.find(middle[0], middle[1], Infinity) : this.toward(this.place(here), arrows[key][0], arrows[key][1]);
  }
  if (key === "n" || key === "p") return this.beside(here < 0 && key === "p" ? 0 : here, key === "n" ? 1 : -1);
  return null;
};

/* Turns the attention to an item by the keyboard; the picture moves where the item is out of it. */
Panel.prototype.visit = function (entry, pinned) {
  var at = this.place(entry), side = this.side;
  if (at[0] < 0 || at[1] < 0 || at[0] > side || at[1] > side) {
    this.move(this.shift[0] + side / 2 - at[0], this.shift[1] + side / 2 - at[1]);
  }
  this.cursor = entry;
  focus = { entry: entry, panel: this, pinned: pinned, keyed: true };
  refocus();
};

Panel.prototype.zoom = function (factor, x, y) {
  var scale = Math.min(40, Math.max(1, this.scale * factor));
  factor = scale / this.scale;
  this.scale = scale;
  this.move(x - (x - this.shift[0]) * factor, y - (y - this.shift[1]) * factor);
};

Panel.prototype.move = function (x, y) {
  var least = this.side * (1 - this.scale), self = this;
  this.shift = [x, y].map(function (v) { return Math.min(0, Math.max(least, v)); });
  this.stage.classList.toggle("moved", this.scale > 1);
  if (!this.waiting) {
    this.waiting = true;
    requestAnimationFrame(function () {
      self.waiting = false;
      self.draw();
    });
  }
};

Panel.prototype.reset = function () {
  this.scale = 1;
  this.move(0, 0);
};

Panel.prototype.listen = function () {
  var self = this, stage = this.stage, held = {}, travelled = 0, scrolled = 0;
  window.addEventListener("scroll", function () { scrolled = Date.now(); }, { passive: true });
  function at(event) {
    var box = stage.getBoundingClientRect();
    return [event.clientX - box.left - stage.clientLeft, event.clientY - box.top - stage.clientTop];
  }
  stage.addEventListener("pointerdown", function (event) {
    held[event.pointerId] = at(event);
    travelled = 0;
  });
  stage.addEventListener("pointermove", function (event) {
    var now = at(event), ids = Object.keys(held), before = held[event.pointerId];
    if (!before) {
      if (event.pointerType !== "touch") look(self, self.find(now[0], now[1], 14), false);
      return;
    }
    travelled += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
    if (ids.length === 2) {
      var other = held[ids[0] === String(event.pointerId) ? ids[1] : ids[0]];
      var stretch = distance(now, other) / Math.max(1, distance(before, other));
      self.zoom(stretch, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else if (self.scale > 1 && travelled > 4) {
      self.move(self.shift[0] + now[0] - before[0], self.shift[1] + now[1] - before[1]);
    }
    held[event.pointerId] = now;
  });
  function release(event) { delete held[event.pointerId]; }
  stage.addEventListener("pointercancel", release);
  stage.addEventListener("pointerup", function (event) {
    if (held[event.pointerId] && travelled < 6) {
      var now = at(event), found = self.find(now[0], now[1], event.pointerType === "touch" ? 24 : 14);
      if (found >= 0 && !(focus && focus.pinned && focus.entry === found && focus.panel === self)) look(self, found, true);
      else unpin();
    }
    release(event);
  });
  /* The card may appear under the finger: the click that follows a tap is not meant for its button. */
  stage.addEventListener("touchend", function (event) {
    if (travelled < 6 && event.cancelable) event.preventDefault();
  }, { passive: false });
  stage.addEventListener("pointerleave", function (event) {
    release(event);
    if (!(focus && focus.keyed)) look(self, -1, false);
  });
  stage.addEventListener("dblclick", function () { self.reset(); });
  stage.addEventListener("wheel", function (event) {
    /* A page that is being scrolled goes on scrolling over the picture. */
    if (!event.ctrlKey && (Date.now() - scrolled < 250 || (event.deltaY > 0 && self.scale === 1))) return;
    event.preventDefault();
    var now = at(event);
    self.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), now[0], now[1]);
  }, { passive: false });
  stage.addEventListener("keydown", function (event) {
    var middle = self.side / 2;
    if (event.key === "+" || event.key === "=") self.zoom(1.6, middle, middle);
    else if (event.key === "-") self.zoom(1 / 1.6, middle, middle);
    else if (event.key === "0") self.reset();
    else if (event.ctrlKey || event.altKey || event.metaKey) return;
    else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (focus && focus.panel === self) self.visit(focus.entry, !(focus.pinned && focus.keyed));
    } else {
      var entry = self.keyed(event.key);
      if (entry === null) return;
      event.preventDefault();
      if (entry >= 0) self.visit(entry, false);
    }
  });
  stage.addEventListener("blur", function () {
    if (focus && focus.keyed && focus.panel === self && !focus.pinned) unpin();
    else self.highlight();
  });
};

function distance(a, b) {
  return Math.sqrt((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1]));
}

/* Turns the attention to an item of a panel; -1 turns it away. What is pinned stays until something else is. */
function look(panel, entry, pinned) {
  if (!pinned && focus && focus.pinned) return;
  if (!pinned && focus && focus.entry === entry && focus.panel === panel) return;
  if (entry < 0 && !focus) return;
  focus = entry < 0 ? null : { entry: entry, panel: panel, pinned: pinned };
  refocus();
}

function unpin() {
  focus = null;
  refocus();
}

function refocus() {
  panels.forEach(function (panel) { panel.highlight(); });
  drawCard();
}

/* Whether neighbours are sought among the items shown alone, and these are not all; a gallery is searched as a whole. */
function someOf() {
  var searched = entries.gallery.some(function (of) { return of === 1; });
  return entries.shown < data.queries && !searched;
}

function drawCard() {
  var card = byId("card");
  card.classList.toggle("idle", !focus);
  if (!focus) {
    replace(card, make("p", { "class": "hint" }, "Point at an item to see it with its nearest neighbours; click to keep it here. Wheel or + and − zoom, dragging moves."),
      make("p", { "class": "hint", id: "keys" }, "With the keyboard: arrows go from item to item, N and P to the next and the previous one, Enter keeps it, Escape lets go."));
    return;
  }
  var entry = focus.entry, variant = focus.panel.variant, own = entries.class[entry];
  var list = make("ol", { "class": "near" });
  variant.near[entry].forEach(function (near, at) {
    list.appendChild(make("li", {},
      thumb(near, 34) || make("span", {}), verdict(entries.class[near] === own), className(entries.class[near]),
      make("span", { "class": "score", title: "cosine similarity" }, variant.score[entry][at].toFixed(3)), textOf(near)));
  });
  var close = focus.pinned
    ? make("button", { type: "button", "class": "close", "aria-label": "Let go", title: "Let go", click: unpin }, "×")
    : null;
  replace(card,
    make("div", { "class": "card-top" }, thumb(entry, 84),
      make("div", { "class": "card-words" }, make("b", {}, mark(own), className(own)), make("span", { "class": "score" }, placeOf(entry)), fileOf(entry), textOf(entry)),
      close),
    make("p", { "class": "hint" }, "Nearest by " + variant.name + (someOf() ? ", among the items shown" : "")),
    list);
}

function drawLegend() {
  var counts = {}, many, list = make("div", { "class": "legend-list" }), buttons = [];
  for (var entry = 0; entry < entries.shown; entry++) counts[entries.class[entry]] = (counts[entries.class[entry]] || 0) + 1;
  var labels = Object.keys(counts).map(Number).sort(function (a, b) { return a - b; });
  many = labels.length > 24;
  function update() {
    buttons.forEach(function (button, at) { button.setAttribute("aria-pressed", String(!hidden[labels[at]])); });
    if (focus && hidden[entries.class[focus.entry]]) unpin();
    panels.forEach(function (panel) { panel.draw(); });
  }
  function all(hide) {
    labels.forEach(function (label) { hidden[label] = hide; });
    update();
  }
  labels.forEach(function (label) {
    var button = make("button", {
      type: "button", "aria-pressed": "true", "data-class": label,
      click: function () { hidden[label] = !hidden[label]; update(); },
      dblclick: function () { labels.forEach(function (other) { hidden[other] = other !== label; }); update(); }
    }, mark(label), className(label));
    buttons.push(button);
    list.appendChild(button);
  });
  var filter = many ? make("input", {
    type: "search", placeholder: "Find a class", "aria-label": "Find a class",
    input: function () {
      var wanted = this.value.toLowerCase();
      buttons.forEach(function (button, at) { button.hidden = data.classes[labels[at]].toLowerCase().indexOf(wanted) < 0; });
    }
  }) : null;
  replace(byId("legend"),
    make("div", { "class": "legend-head" }, make("b", {}, labels.length + " classes"),
      make("button", { type: "button", click: function () { all(false); } }, "All"),
      make("button", { type: "button", click: function () { all(true); } }, "None")),
    filter, list);
}

function drawProjection() {
  var part = entries.shown < data.queries ? entries.shown + " of " + data.queries + " items, evenly from all classes. " : entries.shown + " items. ";
  byId("method").textContent = part + (data.projection === "Pca"
    ? "The two directions of largest variance of the unit vectors."
    : "t‑SNE of the unit vectors: near stays near, but distances between groups mean little.");
  panels = data.variants.map(function (variant, index) { return new Panel(variant, index); });
  /* Before and after side by side; the raw vectors last. */
  panels.slice(1).concat(panels[0]).forEach(function (panel) { byId("panels").appendChild(panel.element); });
  show("projection");
  function resize() {
    panels.forEach(function (panel) {
      panel.resize();
      panel.reset();
      panel.draw();
    });
  }
  drawLegend();
  drawCard();
  resize();
  var width = window.innerWidth;
  window.addEventListener("resize", function () {
    /* Phones resize the window's height when their bars come and go. */
    if (window.innerWidth !== width) {
      width = window.innerWidth;
      resize();
    }
  });
  function redraw() { panels.forEach(function (panel) { panel.draw(); }); }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  /* Not for print: a canvas drawn then is blank on the paper. */
  document.addEventListener("keydown", function (event) { if (event.key === "Escape") unpin(); });
}
