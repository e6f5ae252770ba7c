(function () {
"use strict";

var data = JSON.parse(document.getElementById("data").textContent);
var entries = data.entries;
var sprite = entries.sprite;
var SVG = "http://www.w3.org/2000/svg";

function byId(id) {
  return document.getElementById(id);
}

/* An element; strings among the children become text, never markup. */
function make(tag, attributes) {
  var children = Array.prototype.slice.call(arguments, 2);
  return fill(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes) {
  var children = Array.prototype.slice.call(arguments, 2);
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  Object.keys(attributes || {}).forEach(function (name) {
    var value = attributes[name];
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  });
  children.forEach(function (child) {
    if (child !== null && child !== undefined) {
      element.appendChild(typeof child === "object" ? child : document.createTextNode(child));
    }
  });
  return element;
}

function replace(element) {
  element.textContent = "";
  Array.prototype.slice.call(arguments, 1).forEach(function (child) {
    if (child) element.appendChild(child);
  });
}

/* A class's name, kept apart from the direction of the text around it. */
function className(index) {
  var name = data.classes[index];
  if (name === undefined) name = String(index);
  return make("bdi", { title: name }, name);
}

function colourOf(index) {
  return data.colours[index % data.colours.length];
}

/* As in the program's figures: circle, square, triangle, diamond. */
function shapeOf(index) {
  return (index + Math.floor(index / data.colours.length)) % 4;
}

function tracePath(path, shape, x, y, size) {
  var h;
  if (shape === 0) {
    path.moveTo(x + size, y);
    path.arc(x, y, size, 0, 6.2832);
  } else if (shape === 1) {
    h = size * 0.88;
    path.rect(x - h, y - h, 2 * h, 2 * h);
  } else if (shape === 2) {
    path.moveTo(x, y - size * 1.3);
    path.lineTo(x + size * 1.2, y + size * 0.85);
    path.lineTo(x - size * 1.2, y + size * 0.85);
    path.closePath();
  } else {
    h = size * 1.25;
    path.moveTo(x, y - h);
    path.lineTo(x + h, y);
    path.lineTo(x, y + h);
    path.lineTo(x - h, y);
    path.closePath();
  }
}

function mark(index) {
  var shapes = [
    ["circle", { cx: 7, cy: 7, r: 5 }],
    ["rect", { x: 2.6, y: 2.6, width: 8.8, height: 8.8 }],
    ["path", { d: "M7 1L13 11.4H1Z" }],
    ["path", { d: "M7 .8L13.2 7L7 13.2L.8 7Z" }]
  ];
  var shape = shapes[shapeOf(index)];
  shape[1].fill = colourOf(index);
  shape[1]["class"] = "edge";
  return makeSvg("svg", { "class": "mark", viewBox: "0 0 14 14", "aria-hidden": "true" }, makeSvg(shape[0], shape[1]));
}

/* The picture of an entry, `width` pixels wide; null for items that are no pictures. */
function thumb(entry, width) {
  if (!sprite) return null;
  var zoom = width / sprite.tile[0];
  var element = make("div", { "class": "thumb", role: "img", "aria-label": nameOf(entry) });
  element.style.width = width + "px";
  element.style.height = sprite.tile[1] * zoom + "px";
  element.style.backgroundSize = sprite.columns * width + "px " + sprite.rows * sprite.tile[1] * zoom + "px";
  element.style.backgroundPosition =
    -(entry % sprite.columns) * width + "px " + -Math.floor(entry / sprite.columns) * sprite.tile[1] * zoom + "px";
  return element;
}

function textOf(entry) {
  return entries.text ? make("bdi", { "class": "item-text" }, entries.text[entry]) : null;
}

/* The name of an item's file. */
function fileOf(entry) {
  return entries.file ? make("bdi", { "class": "item-file", title: entries.file[entry] }, entries.file[entry]) : null;
}

/* Where an item is in the data. */
function placeOf(entry) {
  return (entries.gallery[entry] ? "gallery item " : "item ") + entries.row[entry];
}

function nameOf(entry) {
  return data.classes[entries.class[entry]] + ", " + placeOf(entry);
}

function verdict(right) {
  return make("span", { "class": "verdict " + (right ? "yes" : "no"), title: right ? "right class" : "wrong class" }, right ? "✓" : "✗");
}

/* Buttons of which one is pressed. */
function choice(label, names, chosen, onChoose) {
  var group = make("div", { "class": "choice", role: "group", "aria-label": label });
  names.forEach(function (name, index) {
    group.appendChild(
      make("button", {
        type: "button",
        "aria-pressed": String(index === chosen),
        click: function () {
          Array.prototype.forEach.call(group.children, function (button, at) {
            button.setAttribute("aria-pressed", String(at === index));
          });
          onChoose(index);
        }
      }, name)
    );
  });
  return group;
}

/* The tuned embeddings that find most; raw and untrained come before them. */
function bestVariant() {
  var best = data.variants.length - 1;
  data.variants.forEach(function (variant, index) {
    var known = data.variants[best].quality;
    if (index > 1 && variant.quality && known && variant.quality.recall_at_1 > known.recall_at_1) best = index;
  });
  return best;
}

function variantNames() {
  return data.variants.map(function (variant) { return variant.name; });
}

function cssColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function percent(part) {
  return (100 * part).toFixed(1) + "%";
}

function short(value) {
  if (value === 0) return "0";
  var size = Math.abs(value);
  if (size >= 1000 || size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

function show(id) {
  byId(id).hidden = false;
}
