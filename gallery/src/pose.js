// Where one looks from at first.

import * as THREE from "three";
import { FOV } from "./stage.js";

const SIDES = 8; // directions that are tried for the first view
const [CELL, AROUND] = [0.12, 0.7]; // metres: of the coarse picture in that trial, and around the target

// Where one looks from at first: from the side that sees most of what is around `towards` (the
// target, or the closest point), with all that is drawn inside a square picture.
export function firstPose(cloud, towards) {
  const { middle, low, high, radius } = cloud.box;
  const elevation = 0.8;
  let best = { seen: -1 };
  for (let turn = 0; turn < SIDES; turn++) {
    const azimuth = -Math.PI / 3 + (2 * Math.PI * turn) / SIDES;
    const back = new THREE.Vector3(
      Math.cos(elevation) * Math.cos(azimuth),
      Math.cos(elevation) * Math.sin(azimuth),
      Math.sin(elevation),
    );
    const right = new THREE.Vector3(-Math.sin(azimuth), Math.cos(azimuth), 0);
    const axes = { azimuth, back, right, up: new THREE.Vector3().crossVectors(back, right) };
    const shown = cloud.places.filter((place) => !isCut(cloud.box, place, back));
    const seen = numSeen(cloud.box, shown, towards, axes);
    if (seen > best.seen) best = { seen, shown, ...axes };
  }
  const { azimuth, shown, back, right, up } = best;

  // How far away the eye must be for the leftmost, rightmost, lowest and highest point.
  const needed = [0, 0, 0, 0];
  const half = Math.tan((FOV * Math.PI) / 360);
  const seen = new THREE.Vector3();
  for (const [x, y, z] of shown) {
    seen.set(x - middle.x, y - middle.y, z - middle.z);
    const [across, over, ahead] = [seen.dot(right) / half, seen.dot(up) / half, seen.dot(back)];
    [across, -across, over, -over].forEach((value, side) => {
      needed[side] = Math.max(needed[side], value + ahead);
    });
  }
  const [east, west, north, south] = needed;
  const centre = middle
    .clone()
    .addScaledVector(right, ((east - west) * half) / 2)
    .addScaledVector(up, ((north - south) * half) / 2);
  const distance = 1.06 * Math.max((east + west) / 2, (north + south) / 2, 0.3 * radius);
  return { centre, azimuth, elevation, away: 1, distance };
}

// Whether a place is on a wall between the eye and the room, which is left out of the picture.
function isCut({ low, high }, [x, y, z], back) {
  const across = 0.03 * (high.x - low.x) + 0.04;
  const along = 0.03 * (high.y - low.y) + 0.04;
  const outer =
    (back.x > 0.3 && x > high.x - across) ||
    (back.x < -0.3 && x < low.x + across) ||
    (back.y > 0.3 && y > high.y - along) ||
    (back.y < -0.3 && y < low.y + along);
  return outer && z > low.z + 0.25;
}

// How many cells of a coarse picture show something near `towards` in front of everything else.
function numSeen({ middle, radius }, places, towards, { back, right, up }) {
  const half = Math.ceil(radius / CELL) + 1;
  const side = 2 * half + 1;
  const nearest = new Float32Array(side * side).fill(-Infinity);
  const isNear = new Uint8Array(side * side);
  for (const [px, py, pz] of places) {
    const [x, y, z] = [px - middle.x, py - middle.y, pz - middle.z];
    const column = half + Math.round((x * right.x + y * right.y + z * right.z) / CELL);
    const row = half + Math.round((x * up.x + y * up.y + z * up.z) / CELL);
    const ahead = x * back.x + y * back.y + z * back.z;
    const cell = row * side + column;
    if (!(nearest[cell] < ahead)) continue; // also outside of the picture
    nearest[cell] = ahead;
    isNear[cell] = Math.hypot(px - towards[0], py - towards[1], pz - towards[2]) < AROUND ? 1 : 0;
  }
  return isNear.reduce((sum, one) => sum + one, 0);
}
