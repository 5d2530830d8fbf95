// Draws point clouds: one WebGL context for all pictures of the page. Each picture is drawn into
// it and copied to the picture's own 2D canvas, so that pictures scroll with the page.

import * as THREE from "three";
import { scheme } from "./colors.js";

const FOV = 32; // degrees, of the picture's height
const OUTLINE = 5; // pixels of the target's outline, both sides together

const VERTEX = `
  attribute vec3 tint;
  uniform float size, scale, wider, near, far, dimmed;
  uniform vec3 low, high, eye;
  varying vec3 vTint;
  varying float vDepth;
  void main() {
    vec4 world = modelMatrix * vec4(position, 1.0);
    vec4 seen = viewMatrix * world;
    gl_Position = projectionMatrix * seen;
    if (dimmed > 0.0) { // 10 cm farther away, so that it hides no point of the map
      vec4 back = projectionMatrix * vec4(seen.xy, seen.z - 0.1, 1.0);
      gl_Position.z = back.z / back.w * gl_Position.w;
    }
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
  uniform float outlined, dimmed;
  varying vec3 vTint;
  varying float vDepth;
  void main() {
    vec2 at = 2.0 * gl_PointCoord - 1.0;
    float r2 = dot(at, at);
    if (r2 > 1.0) discard;
    // A rim that is a little darker tells points apart; what is far away fades a little.
    // What has no map is paler, so that nobody takes its colour for closeness.
    vec3 own = mix(vTint, vec3(dot(vTint, vec3(0.3, 0.59, 0.11))), dimmed);
    vec3 lit = own * (1.0 - 0.28 * r2 * r2);
    gl_FragColor = vec4(outlined > 0.5 ? outline : mix(lit, background, max(dimmed, 0.38 * vDepth)), 1.0);
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
    this.renderer = new THREE.WebGLRenderer({ antialias: false, powerPreference: "low-power" });
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
    const material = (own = {}, options = {}) => {
      const values = { wider: 0, outlined: 0, dimmed: 0, ...own };
      const uniforms = Object.fromEntries(Object.entries(values).map(([k, value]) => [k, { value }]));
      return new THREE.ShaderMaterial({
        uniforms: { ...this.uniforms, ...uniforms },
        vertexShader: VERTEX,
        fragmentShader: FRAGMENT,
        ...options,
      });
    };
    this.outline = material({ outlined: 1 }, { depthWrite: false });
    // In the order of drawing: what is around the target, its outline, the target over it.
    this.materials = [material(), this.outline, material()];
    this.behind = material({ dimmed: 0.6, size: 0.03 });
  }

  // Points of an item with colours of its own for each picture; `dispose` frees them.
  cloud(data) {
    const position = new THREE.BufferAttribute(data.xyz, 3);
    const placed = new THREE.Matrix4()
      .makeTranslation(...data.origin)
      .scale(new THREE.Vector3(data.step, data.step, data.step));
    const background = data.count - data.numTarget;
    const groups = [
      [0, background, 0],
      [background, data.numTarget, 1],
      [background, data.numTarget, 2],
    ];
    const picture = () => {
      const scene = new THREE.Scene();
      if (data.behind) {
        const tint = new THREE.BufferAttribute(data.behindColors, 3, true);
        const behind = new THREE.BufferAttribute(data.behind, 3);
        scene.add(pointsOf({ position: behind, tint }, this.behind, placed));
      }
      const tint = new THREE.BufferAttribute(new Uint8Array(3 * data.count), 3, true);
      const points = pointsOf({ position, tint }, this.materials, placed);
      for (const group of groups) points.geometry.addGroup(...group);
      scene.add(points);
      return {
        scene,
        paint(values) {
          tint.array.set(values);
          tint.needsUpdate = true;
        },
        dispose: () => scene.children.forEach((child) => child.geometry.dispose()),
      };
    };
    // What is behind may overlap, since it closes the surfaces of the room.
    const behindSize = data.behind && 2 * spacing({ ...data, xyz: data.behind });
    return { box: boxOf(data), size: spacing(data), behindSize, picture };
  }

  // Draw a picture as seen from `pose` into a 2D canvas; returns what places are on it.
  draw(cloud, picture, pose, canvas) {
    const { width, height } = canvas;
    this.fit(width, height);
    const camera = this.place(cloud, pose, width / height);
    const u = this.uniforms;
    const distance = camera.position.distanceTo(pose.centre);
    u.size.value = cloud.size;
    this.behind.uniforms.size.value = cloud.behindSize;
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
    const distance = (cloud.box.radius / Math.sin(Math.atan(half))) * 0.97 * pose.away;
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

function pointsOf(attributes, material, placed) {
  const geometry = new THREE.BufferGeometry();
  for (const [name, attribute] of Object.entries(attributes)) geometry.setAttribute(name, attribute);
  const points = new THREE.Points(geometry, material);
  points.frustumCulled = false;
  points.matrixAutoUpdate = false;
  points.matrix.copy(placed);
  return points;
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
function spacing({ step, xyz }) {
  const count = xyz.length / 3;
  const extent = [0, 0, 0];
  for (let i = 0; i < xyz.length; i++) extent[i % 3] = Math.max(extent[i % 3], step * xyz[i]);
  const [x, y, z] = extent;
  const area = x * y + z * (x + y);
  return Math.min(Math.max(0.9 * Math.sqrt(area / count), 0.008), 0.13);
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
  return { centre, azimuth, elevation: 0.8, away: 1 };
}
