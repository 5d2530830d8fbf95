// Draws point clouds: one WebGL context for all pictures of the page. Each picture is drawn into
// it and copied to the picture's own 2D canvas, so that pictures scroll with the page.

import * as THREE from "three";
import { scheme } from "./colors.js";

const FOV = 32; // degrees, of the picture's height
const OUTLINE = 5; // pixels of the target's outline, both sides together

const VERTEX = `
  attribute vec3 tint;
  uniform float size, scale, wider, near, far;
  uniform vec3 low, high, eye;
  varying vec3 vTint;
  varying float vDepth;
  void main() {
    vec4 world = modelMatrix * vec4(position, 1.0);
    vec4 seen = viewMatrix * world;
    gl_Position = projectionMatrix * seen;
    gl_PointSize = clamp(size * scale / -seen.z, 1.5, 40.0) + wider;
    vTint = tint;
    vDepth = clamp((-seen.z - near) / (far - near), 0.0, 1.0);
    // Walls between the eye and the room are left out.
    vec2 wall = 0.03 * (high.xy - low.xy) + 0.04;
    bool outer = (eye.x > high.x && world.x > high.x - wall.x)
      || (eye.x < low.x && world.x < low.x + wall.x)
      || (eye.y > high.y && world.y > high.y - wall.y)
      || (eye.y < low.y && world.y < low.y + wall.y);
    if (outer && world.z > low.z + 0.25) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  }`;

const FRAGMENT = `
  uniform vec3 outline, background;
  uniform float outlined;
  varying vec3 vTint;
  varying float vDepth;
  void main() {
    vec2 at = 2.0 * gl_PointCoord - 1.0;
    float r2 = dot(at, at);
    if (r2 > 1.0) discard;
    // A rim that is a little darker tells points apart; what is far away fades a little.
    vec3 lit = vTint * (1.0 - 0.28 * r2 * r2);
    gl_FragColor = vec4(outlined > 0.5 ? outline : mix(lit, background, 0.38 * vDepth), 1.0);
  }`;

// Whether this browser can draw at all; asked before three.js, which would complain to the console.
export function hasWebGL() {
  try {
    const context = document.createElement("canvas").getContext("webgl2");
    context?.getExtension("WEBGL_lose_context")?.loseContext();
    return context !== null && context !== undefined;
  } catch {
    return false;
  }
}

export class Stage {
  constructor() {
    this.renderer = new THREE.WebGLRenderer({ antialias: true, powerPreference: "low-power" });
    this.renderer.sortObjects = false;
    this.renderer.outputColorSpace = THREE.LinearSRGBColorSpace; // colours are as in the tables
    this.size = [0, 0];
    this.camera = new THREE.PerspectiveCamera(FOV, 1, 0.05, 200);
    this.camera.up.set(0, 0, 1);
    this.uniforms = {
      size: { value: 0.05 },
      scale: { value: 1 },
      near: { value: 0 },
      far: { value: 1 },
      low: { value: new THREE.Vector3() },
      high: { value: new THREE.Vector3() },
      eye: { value: new THREE.Vector3() },
      background: { value: new THREE.Color() },
      outline: { value: new THREE.Color() },
    };
    const material = (wider, outlined, options) =>
      new THREE.ShaderMaterial({
        uniforms: { ...this.uniforms, wider: { value: wider }, outlined: { value: outlined } },
        vertexShader: VERTEX,
        fragmentShader: FRAGMENT,
        ...options,
      });
    this.outline = material(OUTLINE, 1, { depthWrite: false });
    // In the order of drawing: what is around the target, its outline, the target over it.
    this.materials = [material(0, 0), this.outline, material(0, 0)];
  }

  // Points of an item with colours of its own for each picture; `dispose` frees them.
  cloud(data) {
    const position = new THREE.BufferAttribute(data.xyz, 3);
    const placed = new THREE.Matrix4()
      .makeTranslation(...data.origin)
      .scale(new THREE.Vector3(data.step, data.step, data.step));
    const picture = () => {
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", position);
      const tint = new THREE.BufferAttribute(new Uint8Array(3 * data.count), 3, true);
      geometry.setAttribute("tint", tint);
      const background = data.count - data.numTarget;
      geometry.addGroup(0, background, 0);
      geometry.addGroup(background, data.numTarget, 1);
      geometry.addGroup(background, data.numTarget, 2);
      const points = new THREE.Points(geometry, this.materials);
      points.frustumCulled = false;
      points.matrixAutoUpdate = false;
      points.matrix.copy(placed);
      const scene = new THREE.Scene();
      scene.add(points);
      return {
        scene,
        paint(values) {
          tint.array.set(values);
          tint.needsUpdate = true;
        },
        dispose: () => geometry.dispose(),
      };
    };
    return { box: boxOf(data), size: spacing(data), picture };
  }

  // Draw a picture as seen from `pose` into a 2D canvas; returns what places are on it.
  draw(cloud, picture, pose, canvas) {
    const { width, height } = canvas;
    this.fit(width, height);
    const camera = this.place(cloud, pose, width / height);
    const u = this.uniforms;
    const distance = camera.position.distanceTo(pose.centre);
    u.size.value = cloud.size;
    u.scale.value = height / (2 * Math.tan((FOV * Math.PI) / 360));
    u.near.value = distance - cloud.box.radius;
    u.far.value = distance + cloud.box.radius;
    u.low.value.copy(cloud.box.low);
    u.high.value.copy(cloud.box.high);
    u.eye.value.copy(camera.position);
    const { background, target } = scheme();
    raw(u.background.value, background);
    raw(u.outline.value, target);
    this.renderer.setClearColor(u.background.value, 1);
    this.outline.uniforms.wider.value = Math.max(3, (OUTLINE * height) / 300);
    this.renderer.setViewport(0, 0, width, height);
    this.renderer.setScissor(0, 0, width, height);
    this.renderer.setScissorTest(true);
    this.renderer.render(picture.scene, camera);
    const context = canvas.getContext("2d");
    context.drawImage(
      this.renderer.domElement,
      ...[0, this.size[1] - height, width, height, 0, 0, width, height],
    );
    return projector(camera, width, height);
  }

  // The context grows with the largest picture, and is used from its lower left corner.
  fit(width, height) {
    if (width <= this.size[0] && height <= this.size[1]) return;
    this.size = [Math.max(width, this.size[0]), Math.max(height, this.size[1])];
    this.renderer.setPixelRatio(1);
    this.renderer.setSize(...this.size, false);
  }

  place(cloud, pose, aspect) {
    const half = Math.tan((FOV * Math.PI) / 360) * Math.min(1, aspect);
    const distance = (cloud.box.radius / Math.sin(Math.atan(half))) * 0.86 * pose.away;
    const flat = Math.cos(pose.elevation) * distance;
    this.camera.aspect = aspect;
    this.camera.position.set(
      pose.centre.x + flat * Math.cos(pose.azimuth),
      pose.centre.y + flat * Math.sin(pose.azimuth),
      pose.centre.z + Math.sin(pose.elevation) * distance,
    );
    this.camera.lookAt(pose.centre);
    this.camera.updateProjectionMatrix();
    this.camera.updateMatrixWorld();
    return this.camera;
  }
}

function raw(color, text) {
  color.setStyle(text, THREE.LinearSRGBColorSpace);
}

// Corners, middle and half diagonal of the points and the motion, in metres.
function boxOf(data) {
  const low = new THREE.Vector3(Infinity, Infinity, Infinity);
  const high = new THREE.Vector3(-Infinity, -Infinity, -Infinity);
  const point = new THREE.Vector3();
  for (let i = 0; i < data.count; i++) {
    point.set(...data.origin.map((o, axis) => o + data.step * data.xyz[3 * i + axis]));
    low.min(point);
    high.max(point);
  }
  for (let i = 0; data.motion && i < data.motion.length; i += 3) {
    point.fromArray(data.motion, i);
    low.min(point);
    high.max(point);
  }
  const middle = low.clone().add(high).multiplyScalar(0.5);
  return { low, high, middle, radius: Math.max(low.distanceTo(high) / 2, 1e-3) };
}

// Diameter of a point in metres, so that points close the surfaces of a room.
function spacing({ count, step, xyz }) {
  const extent = [0, 0, 0];
  for (let i = 0; i < 3 * count; i++) extent[i % 3] = Math.max(extent[i % 3], step * xyz[i]);
  const [x, y, z] = extent;
  const area = x * y + z * (x + y);
  return Math.min(Math.max(0.95 * Math.sqrt(area / count), 0.008), 0.16);
}

// Gives x, y in pixels of a place in metres; null behind the camera.
function projector(camera, width, height) {
  const point = new THREE.Vector3();
  const matrix = camera.projectionMatrix.clone().multiply(camera.matrixWorldInverse);
  return (x, y, z) => {
    const depth = point.set(x, y, z).applyMatrix4(camera.matrixWorldInverse).z;
    if (depth >= -camera.near) return null;
    point.set(x, y, z).applyMatrix4(matrix);
    return [((point.x + 1) / 2) * width, ((1 - point.y) / 2) * height];
  };
}

// Where one looks from at first: across the room towards the target, or to the closest point.
export function firstPose(cloud, towards) {
  const { middle, low, high } = cloud.box;
  const centre = new THREE.Vector3(middle.x, middle.y, low.z + 0.3 * (high.z - low.z));
  let azimuth = -Math.PI / 3;
  if (towards) {
    const [x, y] = [middle.x - towards[0], middle.y - towards[1]];
    if (Math.hypot(x, y) > 0.15) azimuth = Math.atan2(y, x) + 0.45;
  }
  return { centre, azimuth, elevation: 0.75, away: 1 };
}
