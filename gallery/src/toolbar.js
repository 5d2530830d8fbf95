// What is chosen for all items: joint, colours, order, filters; and the legend.

import { closeness, scheme } from "./colors.js";
import { element, labelled, menu } from "./dom.js";

const HELP =
  "Drag a picture sideways to turn it; its neighbour turns along. On a mouse, drag up or down to " +
  "look from above; on a touch screen, use two fingers, also to zoom. Hold Ctrl and turn the wheel " +
  "to zoom. Keys on a picture: arrows turn, + and - zoom, 0 goes back, [ and ] step through the " +
  "maps of an item, Enter enlarges.";

export const ORDERS = [
  ["archive", "as in the archive"],
  ["worst", "worst first"],
  ["best", "best first"],
];

const values = (items, key) =>
  [...new Set(items.map((item) => item[key]))].filter((value) => value !== "").sort();

export class Toolbar {
  constructor(app) {
    this.app = app;
    this.legend = element("div", { class: "legend", role: "img" });
    this.count = element("output", { class: "count" });
    this.looks = element("div", { class: "looks" });
    this.filters = element("div", { class: "filters" });
    this.element = element("div", { class: "toolbar" }, this.looks);
    this.below = element(
      "div",
      { class: "choose" },
      this.filters,
      element("details", {}, element("summary", {}, "How to turn, zoom and step"), element("p", {}, HELP)),
    );
    this.fill();
  }

  // Menus for what the items have; called again when `cdm view` tells of more.
  fill() {
    const { app } = this;
    const { choice, items } = app;
    const set = (key) => (value) => app.choose({ [key]: value });
    this.jointMenu = menu(app.jointPairs(), String(choice.joint), (value) =>
      app.choose({ joint: +value }),
    );
    const colors = [["close", "closeness"]];
    if (app.hasTruth) colors.push(["error", "error"]);
    colors.push(["scene", "the scene itself"]);
    this.looks.replaceChildren(
      labelled("Joint", this.jointMenu),
      labelled("Colour", menu(colors, choice.color, set("color"))),
      this.legend,
    );
    const filters = [
      labelled(
        "Caption",
        element("input", {
          type: "search",
          placeholder: "words to look for",
          value: choice.query,
          oninput: (event) => app.choose({ query: event.target.value }),
        }),
      ),
    ];
    const some = (key, name, all) => {
      const found = values(items, key);
      if (found.length < 2) return;
      const pairs = [["", all], ...found.map((value) => [value, value])];
      filters.push(labelled(name, menu(pairs, choice[key], set(key))));
    };
    some("set", "Set", "all sets");
    some("action", "Action", "all actions");
    if (items.some((item) => item.found !== null)) {
      const pairs = [
        ["", "found or missed"],
        ["found", "found"],
        ["missed", "missed"],
      ];
      filters.push(labelled("Target object", menu(pairs, choice.found, set("found"))));
    }
    if (values(items, "pick").length > 1) {
      const pairs = [
        ["", "all that are here"],
        ["even", "those spread evenly"],
        ["worst", "the worst of all"],
      ];
      filters.push(labelled("Chosen as", menu(pairs, choice.pick, set("pick"))));
    }
    if (items.some((item) => item.error !== null)) {
      this.orderMenu = menu(ORDERS, choice.order, set("order"));
      filters.push(
        labelled("Order", this.orderMenu),
        element(
          "button",
          { type: "button", class: "worst", onclick: () => app.choose({ order: "worst" }) },
          "Worst first",
        ),
      );
    } else if (app.remote) {
      filters.push(
        element("span", { class: "hint" }, "After snakemake evaluate, you can sort by error here."),
      );
    }
    filters.push(this.count);
    this.filters.replaceChildren(...filters);
    this.drawLegend();
  }

  update() {
    const { app } = this;
    this.jointMenu.value = String(app.choice.joint);
    if (this.orderMenu) this.orderMenu.value = app.choice.order;
    const [shown, all] = [app.shown.length, app.items.length];
    this.count.textContent = shown === all ? `${all} maps` : `${shown} of ${all} maps`;
    if (!shown && all) this.count.textContent += " fit; change the filters to see others";
    this.drawLegend();
  }

  drawLegend() {
    const { app } = this;
    const { color } = app.choice;
    if (color === "scene") {
      this.legend.replaceChildren(element("span", { class: "hint" }, "the scene in its own colours"));
      this.legend.setAttribute("aria-label", "Colours of the scene");
      return;
    }
    const bar = element("canvas", { width: 256, height: 1 });
    const lut = color === "error" ? scheme().error : scheme().close;
    const pixels = new ImageData(256, 1);
    for (let i = 0; i < 256; i++) pixels.data.set([...lut.subarray(3 * i, 3 * i + 3), 255], 4 * i);
    bar.getContext("2d").putImageData(pixels, 0, 0);
    const ticks = element("div", { class: "ticks" });
    const tick = (share, text, kind = "") => {
      const made = element("span", { class: kind }, text);
      made.style.left = `${100 * share}%`;
      ticks.append(made);
    };
    let meaning;
    if (color === "error") {
      tick(0, "too far", "first");
      tick(0.5, "right");
      tick(1, "too close", "last");
      meaning = "Error: blue where the generated map is too far, orange where it is too close";
    } else {
      const { sigma } = app;
      tick(0, "far", "first");
      for (const metres of [1.5, 1, 0.5].map((value) => +((value * sigma) / 0.8).toFixed(1))) {
        tick(closeness(metres, sigma), `${metres} m`);
      }
      tick(1, "0 m", "last");
      meaning = "Closeness: from far away to 0 metres";
    }
    this.legend.setAttribute("aria-label", meaning);
    this.legend.replaceChildren(bar, ticks);
  }
}
