
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
})();
