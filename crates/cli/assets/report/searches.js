
/* Queries with what they found first. */
var FIRST = 12;
var shownVariant = bestVariant(), shownKind = 0;

function drawSearches(all) {
  var variant = data.variants[shownVariant];
  var searches = shownKind === 0 ? variant.wrong : variant.right;
  byId("search-hint").textContent = !searches.length
    ? (shownKind === 0 ? "No query found a wrong item first." : "No query found a right item first.")
    : shownKind === 0
      ? "Queries whose first item is wrong; first those where it is furthest ahead of the nearest right one."
      : "Queries whose first item is right; first those where a wrong one is closest behind.";
  var gallery = byId("gallery");
  gallery.classList.toggle("words", !sprite);
  gallery.textContent = "";
  searches.slice(0, all ? searches.length : FIRST).forEach(function (search) {
    var own = entries.class[search.query], hits = make("ol", { "class": "hits" });
    search.near.forEach(function (near, at) {
      var right = entries.class[near] === own, picture = thumb(near, sprite ? tileWidth(44) : 0);
      var score = make("span", { "class": "score", title: "cosine similarity" }, search.score[at].toFixed(3));
      hits.appendChild(picture
        ? make("li", { "class": "hit" }, make("div", { "class": "frame " + (right ? "yes" : "no") }, picture),
            make("div", {}, verdict(right), score), className(entries.class[near]))
        : make("li", { "class": "hit" }, verdict(right), score,
            make("div", {}, textOf(near), make("span", { "class": "tag" }, className(entries.class[near]), entries.text ? null : " " + placeOf(near)))));
    });
    gallery.appendChild(make("li", {},
      make("div", { "class": "query" }, thumb(search.query, sprite ? tileWidth(72) : 0), textOf(search.query),
        make("b", {}, className(own)), make("span", { "class": "score" }, placeOf(search.query))),
      hits));
  });
  replace(byId("more-searches"), !all && searches.length > FIRST
    ? make("button", { type: "button", "class": "more", click: function () { drawSearches(true); } }, "All " + searches.length)
    : null);
}

/* Phones have less room. */
function tileWidth(width) {
  return window.innerWidth <= 640 ? Math.round(width * (width > 60 ? 0.85 : 0.82)) : width;
}

function startSearches() {
  replace(byId("search-controls"),
    choice("Embeddings", variantNames(), shownVariant, function (index) { shownVariant = index; drawSearches(); }),
    choice("Which queries", ["Hardest errors", "Narrowest successes"], 0, function (index) { shownKind = index; drawSearches(); }));
  drawSearches();
  show("searches");
}
