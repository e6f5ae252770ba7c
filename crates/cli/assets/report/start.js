
drawCurves();
drawProjection();
startSearches();
startClasses();
drawDistances();

var links = make("div", {});
Array.prototype.forEach.call(document.querySelectorAll("section"), function (section) {
  if (section.hidden) return;
  var name = section.getAttribute("data-nav") || (section.id === "claims" ? "Claims" : null);
  if (name) links.appendChild(make("a", { href: "#" + section.id }, name));
});
replace(byId("nav"), links);
/* Paper cannot be opened. */
var closed = [];
window.addEventListener("beforeprint", function () {
  closed = Array.prototype.filter.call(document.querySelectorAll("details"), function (part) { return !part.open; });
  closed.forEach(function (part) { part.open = true; });
});
window.addEventListener("afterprint", function () {
  closed.forEach(function (part) { part.open = false; });
});
})();
