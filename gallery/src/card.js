// One item: caption, measures, the true and the generated picture, and what can be chosen for it.

import { closenessTo, tints } from "./colors.js";
import { Controls } from "./controls.js";
import { decode } from "./decode.js";
import { element, menu } from "./dom.js";
import { drawMarkers, drawMotion, metres } from "./overlay.js";
import { firstPose } from "./pose.js";

const PLANNED_ANEW = "the run was planned anew since this page was loaded. Load the page again.";

export class Card {
  constructor(item, app) {
    Object.assign(this, { item, app, map: 0, frame: 0, joint: app.choice.joint });
    this.pictures = [];
    this.data = this.cloud = this.pose = null;
    this.state = "new"; // then loading, ready, failed
    this.views = element("div", {
      class: "views",
      tabindex: 0,
      role: "group",
      "aria-label": `Pictures of: ${item.caption || "no caption"}. Arrow keys turn, + and - zoom.`,
    });
    this.note = element("p", { class: "note", hidden: true });
    this.readout = element("p", { class: "readout" });
    this.tools = element("div", { class: "tools" });
    this.element = element(
      "article",
      { class: "card" },
      element("h3", {}, item.caption || "(no caption)"),
      this.meta(),
      this.views,
      this.note,
      this.readout,
      this.tools,
    );
    this.element.card = this;
    this.controls = new Controls(this.views, {
      pose: () => this.pose,
      home: () => this.goHome(),
      changed: () => this.app.redraw(this),
      isLarge: () => this.app.large === this,
    });
    this.views.addEventListener("keydown", (event) => {
      if (event.key === "[") this.step(-1);
      if (event.key === "]") this.step(1);
      if (event.key === "Enter") this.app.enlarge(this);
    });
    this.views.addEventListener("dblclick", () => this.app.enlarge(this));
    this.tools.append(this.enlargeButton());
  }

  meta() {
    const { set, index, action, found, error } = this.item;
    const parts = [element("bdi", {}, `${set} ${index}`)];
    if (action) parts.push(element("span", {}, action));
    if (found !== null) {
      const text =
        found >= 1
          ? "\u2713 target found"
          : found <= 0
            ? "\u2717 target missed"
            : `target found in ${Math.round(100 * found)} % of its maps`;
      const kind = found >= 0.5 ? "found" : "missed";
      parts.push(element("span", { class: `badge ${kind}` }, text));
    }
    if (error !== null) {
      const title = "Distance between the generated and the true closest point";
      parts.push(element("span", { class: "badge", title }, `${metres(error)} off`));
    }
    return element("p", { class: "meta" }, ...parts);
  }

  enlargeButton() {
    return element(
      "button",
      { type: "button", class: "enlarge", onclick: () => this.app.enlarge(this) },
      "Enlarge",
    );
  }

  // Fetch and unpack the numbers, once; then make the pictures.
  async load() {
    if (this.state !== "new") return;
    this.state = "loading";
    this.app.pending += 1;
    try {
      const packed = this.item.map ?? (await this.app.fetchMap(this.item));
      if (packed.key && packed.key !== this.item.key) throw new Error(PLANNED_ANEW);
      this.data = await decode(packed);
      this.packed = packed;
      this.cloud = this.app.stage.cloud(this.data);
      this.frame = this.data.numFrames - 1;
      this.goHome();
      this.pose = this.kept ?? this.pose;
      this.makePictures();
      this.makeTools();
      if (packed.note) this.tell(packed.note);
      this.state = "ready";
    } catch (problem) {
      this.state = "failed";
      this.tell(`This map cannot be shown: ${problem.message}`);
    }
    this.app.pending -= 1;
    this.app.redraw(this);
  }

  tell(text) {
    this.note.textContent = text;
    this.note.hidden = false;
  }

  makePictures() {
    const kinds = this.data.truth ? ["truth", "generated"] : ["generated"];
    this.views.classList.toggle("single", kinds.length === 1);
    this.pictures = kinds.map((kind) => {
      const canvas = element("canvas", { role: "img" });
      const title = element("figcaption");
      this.views.append(element("figure", {}, canvas, title));
      return { kind, canvas, title, ...this.cloud.picture() };
    });
  }

  makeTools() {
    const { data, app } = this;
    this.jointMenu = menu(app.jointPairs(), String(this.joint), (value) => this.setJoint(+value), {
      "aria-label": "Joint of this map",
    });
    const tools = [this.jointMenu];
    if (data.maps.length > 1) {
      this.counter = element("span", { "aria-live": "polite" });
      const button = (step, name, text) =>
        element("button", { type: "button", "aria-label": name, onclick: () => this.step(step) }, text);
      tools.push(
        element(
          "span",
          { class: "stepper" },
          button(-1, "Previous map", "\u2039"),
          this.counter,
          button(1, "Next map", "\u203a"),
        ),
      );
    }
    if (data.motion) {
      const slider = element("input", {
        type: "range",
        min: 0,
        max: data.numFrames - 1,
        value: this.frame,
        "aria-label": "Time in the true motion",
        oninput: () => {
          this.frame = +slider.value;
          app.redraw(this);
        },
      });
      tools.push(element("label", { class: "motion" }, element("span", {}, "motion"), slider));
    }
    this.tools.replaceChildren(...tools, this.enlargeButton());
  }

  goHome() {
    const towards = this.data.numTarget ? this.targetMiddle() : this.firstClosest();
    this.pose = firstPose(this.cloud, towards);
  }

  firstClosest() {
    return (this.data.trueClosest ?? this.data.closest[0])[Math.max(this.joint, 0)];
  }

  targetMiddle() {
    const { count, numTarget, xyz, origin, step } = this.data;
    const sum = [0, 0, 0];
    for (let i = 3 * (count - numTarget); i < 3 * count; i++) sum[i % 3] += xyz[i];
    return sum.map((value, axis) => origin[axis] + (step * value) / numTarget);
  }

  setJoint(joint) {
    this.joint = joint;
    if (this.jointMenu) this.jointMenu.value = String(joint);
    this.app.redraw(this);
  }

  step(by) {
    const count = this.data?.maps.length ?? 1;
    this.map = (this.map + by + count) % count;
    this.app.redraw(this);
  }

  // Free what the graphics card holds; the pictures are made again when the card is seen again.
  release() {
    if (this.state !== "ready") return;
    for (const picture of this.pictures) {
      picture.dispose();
      picture.canvas.width = picture.canvas.height = 0;
    }
    this.views.replaceChildren();
    this.pictures = [];
    this.state = "new";
    this.kept = this.pose;
    this.data = this.cloud = this.pose = null;
  }

  draw() {
    if (this.state !== "ready") return;
    const { data, joint, app } = this;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const generated = closenessTo(data.maps[this.map], data.count, joint);
    const truth = data.truth && closenessTo(data.truth, data.count, joint);
    const kind = app.choice.color;
    for (const picture of this.pictures) {
      const { canvas } = picture;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((v) => Math.round(v * ratio));
      if (!width || !height) continue;
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      const isTruth = picture.kind === "truth";
      const shown = kind === "error" && (isTruth || !truth) ? "close" : kind;
      const close = isTruth ? truth : generated;
      picture.paint(tints(shown, { close, truth, colors: data.colors, count: data.count }));
      const project = app.stage.draw(this.cloud, picture, this.pose, canvas, kind);
      this.drawOver(canvas.getContext("2d"), project, isTruth, ratio);
      picture.title.textContent = isTruth
        ? "ground truth"
        : shown === "error"
          ? "generated: error"
          : "generated";
      canvas.setAttribute("aria-label", `${picture.title.textContent}, ${app.jointName(joint)}`);
    }
    if (this.counter) this.counter.textContent = `map ${this.map + 1} of ${data.maps.length}`;
    this.readout.textContent = this.describe();
    this.element.classList.add("drawn");
  }

  drawOver(context, project, isTruth, unit) {
    const { data, joint, frame } = this;
    const { motion, numFrames } = data;
    if (isTruth && motion) drawMotion(context, project, { motion, numFrames, frame, unit });
    drawMarkers(context, project, {
      joint,
      names: this.app.names,
      places: isTruth ? data.trueClosest : data.closest[this.map],
      others: isTruth ? null : data.trueClosest,
      unit,
    });
  }

  // The closest points in words.
  describe() {
    const { data, joint, app } = this;
    const places = data.closest[this.map];
    const nearest = places.reduce((best, at, i) => (at[3] < places[best][3] ? i : best), 0);
    const number = joint >= 0 ? joint : nearest;
    const [x, y, z, distance] = places[number];
    const name = joint >= 0 ? app.names[number] : `closest joint, ${app.names[number]}`;
    if (!data.trueClosest) return `${name}: ${metres(distance)} from its closest point`;
    const [tx, ty, tz, real] = data.trueClosest[number];
    const apart = Math.hypot(x - tx, y - ty, z - tz);
    return (
      `${name}: ${metres(distance)} from its closest point (truth ${metres(real)}); ` +
      `the points are ${metres(apart)} apart`
    );
  }
}
