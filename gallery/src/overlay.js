// What is drawn over the points: closest points with their distances, and the figure in motion.

import { scheme } from "./colors.js";

// Joints of SMPL that bones connect.
const PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19];
const MANY_LABELS = 340; // CSS pixels of a picture that is wide enough for labels of all joints
const GHOSTS = 5; // faint figures along the motion

export const metres = (value) => `${value.toFixed(2)} m`;

// The true closest point of a joint in the generated picture, and the way to the generated one.
function drawMiss(context, at, true_, unit, colors) {
  context.strokeStyle = colors.halo;
  context.lineWidth = 4 * unit;
  line(context, at, true_);
  context.strokeStyle = colors.truth;
  context.lineWidth = 1.5 * unit;
  context.setLineDash([4 * unit, 3 * unit]);
  line(context, at, true_);
  context.setLineDash([]);
  ring(context, true_, 6 * unit, unit, colors.truth, colors.halo);
}

function line(context, from, to) {
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}

function ring(context, at, radius, unit, color, halo) {
  for (const [stroke, width] of [
    [halo, 4.5 * unit],
    [color, 2 * unit],
  ]) {
    context.strokeStyle = stroke;
    context.lineWidth = width;
    context.beginPath();
    context.arc(...at, radius, 0, 2 * Math.PI);
    context.stroke();
  }
}

function dot(context, at, radius, unit, color, halo) {
  context.fillStyle = color;
  context.beginPath();
  context.arc(...at, radius, 0, 2 * Math.PI);
  context.fill();
  context.strokeStyle = halo;
  context.lineWidth = 2 * unit;
  context.stroke();
}

// Texts beside their points; each moves down until it covers no other.
function labels(context, entries, unit, colors) {
  const taken = [];
  const size = 12 * unit;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.lineJoin = "round";
  for (const { at, text } of entries.sort((a, b) => a.at[1] - b.at[1])) {
    const width = context.measureText(text).width;
    let [x, y] = [at[0] + 10 * unit, at[1]];
    if (x + width > context.canvas.width - 2 * unit) x = at[0] - 10 * unit - width;
    x = Math.max(2 * unit, Math.min(x, context.canvas.width - width - 2 * unit));
    y = Math.max(size, Math.min(y, context.canvas.height - size));
    const hits = (other) =>
      Math.abs(other.y - y) < size * 1.1 && x < other.x + other.width && other.x < x + width;
    for (let tries = 0; tries < 12 && taken.some(hits); tries++) y += size * 0.55;
    taken.push({ x, y, width });
    context.strokeStyle = colors.halo;
    context.lineWidth = 4 * unit;
    context.strokeText(text, x, y);
    context.fillStyle = colors.text;
    context.fillText(text, x, y);
  }
}

// Closest points of the joint, or of all joints where joint is -1.
//
// places: x, y, z, distance of each joint; others: the true ones, where this picture is generated.
export function drawMarkers(context, project, { joint, names, places, others, unit }) {
  const colors = scheme();
  const entries = [];
  places.forEach(([x, y, z, distance], number) => {
    if (joint >= 0 && number !== joint) return;
    const at = project(x, y, z);
    if (!at) return;
    const [tx, ty, tz] = others && joint >= 0 ? others[number] : [x, y, z];
    const apart = Math.hypot(tx - x, ty - y, tz - z);
    const true_ = apart > 0.02 && project(tx, ty, tz);
    if (true_) drawMiss(context, at, true_, unit, colors);
    dot(context, at, (joint >= 0 ? 5 : 4) * unit, unit, colors.marker, colors.halo);
    entries.push({ at, text: joint >= 0 ? metres(distance) : `${names[number]} ${distance.toFixed(2)}` });
  });
  // On a small picture, labels of many joints would cover it.
  if (joint >= 0 || context.canvas.width / unit >= MANY_LABELS) labels(context, entries, unit, colors);
}

// The figure at one frame, and faint ones along its way.
export function drawMotion(context, project, { motion, numFrames, frame, unit }) {
  const colors = scheme();
  const stride = motion.length / numFrames;
  const figure = (number, alpha, width) => {
    context.globalAlpha = alpha;
    context.lineCap = "round";
    for (const [stroke, wide] of [
      [colors.halo, width + 2.5],
      [colors.figure, width],
    ]) {
      if (stroke === colors.halo && alpha < 1) continue;
      context.strokeStyle = stroke;
      context.lineWidth = wide * unit;
      context.beginPath();
      PARENTS.forEach((parent, joint) => {
        if (parent < 0) return;
        const [from, to] = [parent, joint].map((one) => {
          const at = number * stride + 3 * one;
          return project(motion[at], motion[at + 1], motion[at + 2]);
        });
        if (!from || !to) return;
        context.moveTo(...from);
        context.lineTo(...to);
      });
      context.stroke();
    }
    context.globalAlpha = 1;
  };
  for (let ghost = 0; ghost < Math.min(GHOSTS, numFrames); ghost++) {
    figure(Math.round((ghost * (numFrames - 1)) / Math.max(GHOSTS - 1, 1)), 0.35, 1.4);
  }
  figure(frame, 1, 2.6);
}
