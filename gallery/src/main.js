// The gallery: reads its data from the page (a report) or asks for it (`cdm view`), and shows the
// items that the choices leave, a few at a time.

import { onSchemeChange } from "./colors.js";
import { Card } from "./card.js";
import { element } from "./dom.js";
import { hasWebGL, Stage } from "./stage.js";
import { Toolbar } from "./toolbar.js";

const AT_ONCE = 24; // cards that are added when the end of the list comes into view
const AGAIN_MS = 10000; // how often `cdm view` is asked for more maps
const FRAME_MS = 14; // of drawing before the browser gets a turn
const NO_WEBGL =
  "The maps cannot be drawn, because this browser gives the page no WebGL 2. Open the page in a " +
  "current Firefox, Chrome, Edge or Safari, and switch on hardware acceleration in its settings.";

class Gallery {
  constructor(root, content) {
    this.root = root;
    this.remote = content.remote === true;
    this.pending = 0;
    this.dirty = new Set();
    this.visible = new Set();
    this.cards = new Map(); // key -> card, made when first shown
    this.large = null;
    this.take(content);
    const pelvis = this.names.indexOf("pelvis");
    this.choice = {
      ...{ joint: pelvis >= 0 ? pelvis : this.names.length > 1 ? -1 : 0, color: "close" },
      ...{ order: "archive", query: "", set: "", action: "", found: "", pick: "" },
    };
    this.shown = [];
    this.list = element("div", { class: "cards" });
    this.end = element("div", { class: "end" });
    this.news = element("p", { class: "news", role: "status", hidden: true });
    this.dialog = element("dialog", { "aria-label": "One map, enlarged" });
    this.toolbar = new Toolbar(this);
    root.append(this.toolbar.below, this.news, this.toolbar.element, this.list, this.end, this.dialog);
    this.stage = hasWebGL() ? new Stage() : null;
    if (!this.stage) root.prepend(element("p", { class: "nowebgl", role: "alert" }, NO_WEBGL));
    this.watch();
    this.choose({});
    this.followHash();
  }

  take(content) {
    this.names = content.joints;
    this.sigma = content.sigma;
    const known = new Map((this.items ?? []).map((item) => [item.key, item]));
    this.items = content.items.map((item) => Object.assign(known.get(item.key) ?? item, item));
    this.hasTruth = content.truth ?? this.items.some((item) => item.map?.true);
  }

  jointName = (joint) => (joint >= 0 ? this.names[joint] : "any joint");

  jointPairs() {
    const pairs = this.names.map((name, number) => [String(number), name]);
    return this.names.length > 1 ? [...pairs, ["-1", "any joint"]] : pairs;
  }

  watch() {
    const near = new IntersectionObserver((entries) => this.scrolled(entries), {
      rootMargin: "300px",
    });
    this.near = near;
    new IntersectionObserver(([entry]) => entry.isIntersecting && this.addCards(), {
      rootMargin: "800px",
    }).observe(this.end);
    new ResizeObserver(() => this.redrawAll()).observe(this.root);
    onSchemeChange(() => {
      this.toolbar.drawLegend();
      this.redrawAll();
    });
    window.addEventListener("hashchange", () => this.followHash());
    this.stage?.renderer.domElement.addEventListener("webglcontextrestored", () => this.redrawAll());
    this.dialog.addEventListener("close", () => this.putBack());
    this.dialog.addEventListener("keydown", (event) => {
      if (event.target.matches("input, select")) return;
      if (event.key === "n" || event.key === "PageDown") this.neighbour(1);
      if (event.key === "p" || event.key === "PageUp") this.neighbour(-1);
    });
  }

  scrolled(entries) {
    for (const { target, isIntersecting } of entries) {
      const { card } = target;
      if (isIntersecting) {
        this.visible.add(card);
        if (this.stage) card.load();
        this.redraw(card);
      } else if (this.visible.delete(card) && card !== this.large) {
        card.release();
      }
    }
    this.settle();
  }

  // Tell those who wait for the pictures (tests, and people who take screenshots) that all are drawn.
  settle() {
    const idle = !this.dirty.size && !this.pending;
    document.documentElement.dataset.galleryIdle = idle ? "1" : "0";
  }

  // Change a choice, and show what it leaves.
  choose(changes) {
    Object.assign(this.choice, changes);
    const { order, query, set, action, found, pick } = this.choice;
    if ("joint" in changes) for (const card of this.cards.values()) card.setJoint(changes.joint);
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (item) =>
      (!set || item.set === set) &&
      (!action || item.action === action) &&
      (!pick || item.pick === pick) &&
      (!found || (item.found !== null && item.found >= 0.5 === (found === "found"))) &&
      words.every((word) => item.caption.toLowerCase().includes(word));
    const shown = this.items.filter(fits);
    const rank = (item) => item.error ?? -Infinity;
    if (order === "worst") shown.sort((a, b) => rank(b) - rank(a));
    if (order === "best") shown.sort((a, b) => (a.error ?? Infinity) - (b.error ?? Infinity));
    const same = shown.length === this.shown.length && shown.every((item, i) => item === this.shown[i]);
    this.shown = shown;
    if (!same) this.refill();
    this.toolbar.update();
    this.redrawAll();
    if (!shown.length) this.settle();
  }

  refill() {
    for (const child of this.list.children) this.near.unobserve(child);
    this.list.replaceChildren();
    for (const card of this.visible) if (card !== this.large) card.release();
    this.visible.clear();
    this.addCards();
  }

  addCards() {
    const from = this.list.childElementCount;
    for (const item of this.shown.slice(from, from + AT_ONCE)) {
      const card = this.cardOf(item);
      this.list.append(card === this.large ? card.placeholder : card.element);
      this.near.observe(card.element);
    }
  }

  cardOf(item) {
    if (!this.cards.has(item.key)) this.cards.set(item.key, new Card(item, this));
    return this.cards.get(item.key);
  }

  // --- drawing ---------------------------------------------------------------------------------

  redraw(card) {
    this.dirty.add(card);
    if (this.frame) return;
    document.documentElement.dataset.galleryIdle = "0";
    this.frame = requestAnimationFrame(() => this.drawSome());
  }

  redrawAll() {
    for (const card of this.visible) this.redraw(card);
    if (this.large) this.redraw(this.large);
  }

  drawSome() {
    this.frame = null;
    const until = performance.now() + FRAME_MS;
    for (const card of this.dirty) {
      this.dirty.delete(card);
      if (this.stage && (this.visible.has(card) || card === this.large)) card.draw();
      if (performance.now() > until) break;
    }
    if (this.dirty.size) this.frame = requestAnimationFrame(() => this.drawSome());
    else this.settle();
  }

  // --- one item, enlarged -----------------------------------------------------------------------

  enlarge(card) {
    if (this.large === card) return this.dialog.close();
    if (this.large) this.putBack();
    this.large = card;
    card.placeholder = element("div", { class: "card placeholder" });
    card.element.replaceWith(card.placeholder);
    const button = (name, action) => element("button", { type: "button", onclick: action }, name);
    this.dialog.replaceChildren(
      element(
        "div",
        { class: "bar" },
        button("\u2039 previous", () => this.neighbour(-1)),
        button("next \u203a", () => this.neighbour(1)),
        button("Close", () => this.dialog.close()),
      ),
      this.toolbar.looks,
      card.element,
    );
    if (!this.dialog.open) this.dialog.showModal();
    if (this.stage) card.load();
    card.views.focus({ preventScroll: true });
    history.replaceState(null, "", hashOf(card.item));
    this.redraw(card);
  }

  putBack() {
    const card = this.large;
    if (!card) return;
    this.large = null;
    card.placeholder.replaceWith(card.element);
    this.toolbar.element.append(this.toolbar.looks);
    this.dialog.replaceChildren();
    if (!card.element.isConnected) card.release();
    if (location.hash === hashOf(card.item)) {
      history.replaceState(null, "", location.pathname + location.search);
    }
    this.redraw(card);
  }

  neighbour(by) {
    const at = this.shown.indexOf(this.large.item) + by;
    if (this.shown[at]) this.enlarge(this.cardOf(this.shown[at]));
  }

  followHash() {
    const item = this.items.find((each) => hashOf(each) === location.hash || each.key === plain());
    if (item && this.large?.item !== item) this.enlarge(this.cardOf(item));
  }

  // --- cdm view ---------------------------------------------------------------------------------

  async fetchMap(item) {
    const answer = await fetch(`map/${item.row}.json`);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  }

  // Ask for the list again until the run is complete: finished chunks bring more maps.
  async follow(complete) {
    while (!complete) {
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      try {
        const content = await (await fetch("index.json")).json();
        complete = content.complete;
        if (content.items.length !== this.items.length) {
          this.tellNews(`${content.items.length} maps are finished now.`);
          this.take(content);
          this.toolbar.fill();
          this.choose({});
        }
      } catch {
        this.tellNews("cdm view does not answer any more. Start it again to see more maps.");
      }
    }
  }

  tellNews(text) {
    this.news.textContent = text;
    this.news.hidden = false;
  }
}

const hashOf = (item) => `#${item.key.split("/").map(encodeURIComponent).join("/")}`;

function plain() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return null;
  }
}

async function start(root) {
  document.documentElement.dataset.galleryIdle = "0";
  let content = JSON.parse(root.querySelector("#gallery-data").textContent);
  if (content.remote) content = { remote: true, ...(await (await fetch("index.json")).json()) };
  const gallery = new Gallery(root, content);
  if (gallery.remote) gallery.follow(content.complete);
}

start(document.getElementById("gallery"));
