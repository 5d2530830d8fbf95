// Draws point clouds: one WebGL context for all pictures of the page. Each picture is drawn into
// it and copied to the picture's own 2D canvas, so that pictures scroll with the page.

import * as THREE from "three";
import { scheme } from "./colors.js";

export const FOV = 32; // degrees, of the picture's height
const [NEAR, FAR] = [0.2, 120]; // metres from the eye that are drawn
const OUTLINE = 5; // pixels of the target's outline in a picture 300 pixels high
const CLOSED = 2.2; // the outline runs around points so many times as large, which close the surface

const VERTEX = `
  attribute vec3 tint;
  uniform float size, scale, grow, wider, near, far, dimmed;
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
    gl_PointSize = grow * clamp(size * scale / -seen.z, 1.8, 40.0) + wider;
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
  uniform float outlined, dimmed, grey;
  varying vec3 vTint;
  varying float vDepth;
  void main() {
    vec2 at = 2.0 * gl_PointCoord - 1.0;
    float r2 = dot(at, at);
    if (r2 > 1.0) discard;
    // What is far away fades a little.
    vec3 own = mix(vTint, vec3(dot(vTint, vec3(0.3, 0.6, 0.1))), grey);
    vec3 seen = mix(own, background, max(dimmed, 0.3 * vDepth));
    gl_FragColor = vec4(outlined > 0.5 ? outline : seen, 1.0);
  }`;

// Eye-dome lighting (Boucheny 2009): a pixel is darker where its neighbours are closer to the eye.
// Without it, surfaces of one colour would run into each other.
const SHADE_VERTEX = `
  varying vec2 at;
  uniform vec2 used;
  void main() {
    at = (position.xy + 1.0) / 2.0 * used;
    gl_Position = vec4(position.xy, 0.0, 1.0);
  }`;

const SHADE_FRAGMENT = `
  uniform sampler2D color, depth;
  uniform vec2 texel, used;
  uniform float reach, strength, near, far;
  varying vec2 at;
  float away(vec2 where) {
    float z = texture2D(depth, clamp(where, texel, used - texel)).r;
    return log2(near * far / (far - z * (far - near)));
  }
  void main() {
    vec4 seen = texture2D(color, at);
    if (texture2D(depth, at).r < 1.0) {
      float own = away(at), sum = 0.0;
      for (int i = 0; i < 8; i++) {
        float angle = 0.7854 * float(i);
        sum += max(0.0, own - away(at + reach * texel * vec2(cos(angle), sin(angle))));
      }
      seen.rgb *= max(0.45, exp(-strength * sum / 8.0));
    }
    gl_FragColor = vec4(seen.rgb, 1.0);
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
    this.makeShading();
    this.camera = new THREE.PerspectiveCamera(FOV, 1, NEAR, FAR);
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
      const values = { grow: 1, wider: 0, outlined: 0, dimmed: 0, grey: 0, ...own };
      const uniforms = Object.fromEntries(Object.entries(values).map(([k, value]) => [k, { value }]));
      return new THREE.ShaderMaterial({
        uniforms: { ...this.uniforms, ...uniforms },
        vertexShader: VERTEX,
        fragmentShader: FRAGMENT,
        ...options,
      });
    };
    // In the order of drawing: what is around the target, the surface of the target, which is
    // marked and not seen, the outline around the marked pixels, the target.
    const hidden = { depthWrite: false, depthTest: false, colorWrite: false };
    const mark = { stencilWrite: true, stencilRef: 1, stencilZPass: THREE.ReplaceStencilOp };
    const unmarked = { stencilWrite: true, stencilRef: 1, stencilFunc: THREE.NotEqualStencilFunc };
    this.outline = material({ outlined: 1, grow: CLOSED }, { depthWrite: false, ...unmarked });
    this.materials = [
      material(),
      material({ grow: CLOSED }, { ...hidden, ...mark }),
      this.outline,
      material(),
    ];
    this.behind = material({ dimmed: 0.55, size: 0.03 });
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
      [background, data.numTarget, 3],
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
    const behindSize = data.behind && 1.6 * spacing({ ...data, xyz: data.behind });
    return { box: boxOf(data), places: somePlaces(data), size: spacing(data), behindSize, picture };
  }

  // Draw a picture as seen from `pose` into a 2D canvas; returns what gives a place's pixels on it.
  draw(cloud, picture, pose, canvas, kind) {
    const { width, height } = canvas;
    this.fit(width, height);
    const camera = this.place(cloud, pose, width / height);
    const u = this.uniforms;
    const distance = camera.position.distanceTo(pose.centre);
    u.size.value = cloud.size;
    this.behind.uniforms.size.value = cloud.behindSize;
    // Beside the colours of a map, those of the room are told less loudly.
    this.behind.uniforms.grey.value = kind === "scene" ? 0 : 0.65;
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
    this.outline.uniforms.wider.value = OUTLINE * (0.5 + height / 600);
    this.target.viewport.set(0, 0, width, height); // before the target is set, which copies them
    this.target.scissor.set(0, 0, width, height);
    this.renderer.setRenderTarget(this.target);
    this.renderer.render(picture.scene, camera);
    this.shade(width, height);
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
    this.target.setSize(...this.size);
  }

  // Points are drawn into a texture with their depth, from which the canvas is drawn.
  makeShading() {
    this.target = new THREE.WebGLRenderTarget(1, 1, { stencilBuffer: true, scissorTest: true });
    this.target.scissorTest = true;
    this.target.depthTexture = new THREE.DepthTexture(1, 1, THREE.UnsignedInt248Type);
    this.target.depthTexture.format = THREE.DepthStencilFormat;
    this.shading = new THREE.ShaderMaterial({
      vertexShader: SHADE_VERTEX,
      fragmentShader: SHADE_FRAGMENT,
      depthTest: false,
      depthWrite: false,
      uniforms: {
        color: { value: this.target.texture },
        depth: { value: this.target.depthTexture },
        texel: { value: new THREE.Vector2() },
        used: { value: new THREE.Vector2() },
        reach: { value: 1.5 },
        strength: { value: 5 },
        near: { value: NEAR },
        far: { value: FAR },
      },
    });
    const corners = new Float32Array([-1, -1, 0, 3, -1, 0, -1, 3, 0]); // covers the picture
    const triangle = new THREE.BufferGeometry();
    triangle.setAttribute("position", new THREE.BufferAttribute(corners, 3));
    const mesh = new THREE.Mesh(triangle, this.shading);
    mesh.frustumCulled = false;
    this.shaded = new THREE.Scene().add(mesh);
  }

  shade(width, height) {
    const { texel, used, reach } = this.shading.uniforms;
    texel.value.set(1 / this.size[0], 1 / this.size[1]);
    used.value.set(width / this.size[0], height / this.size[1]);
    reach.value = Math.max(1, height / 300);
    this.renderer.setRenderTarget(null);
    this.renderer.setViewport(0, 0, width, height);
    this.renderer.setScissor(0, 0, width, height);
    this.renderer.setScissorTest(true);
    this.renderer.render(this.shaded, this.camera);
  }

  place(cloud, pose, aspect) {
    const distance = pose.distance * pose.away * Math.max(1, 1 / aspect);
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
  const [least, most] = [[65535, 65535, 65535], [0, 0, 0]];
  for (let i = 0; i < data.xyz.length; i++) {
    least[i % 3] = Math.min(least[i % 3], data.xyz[i]);
    most[i % 3] = Math.max(most[i % 3], data.xyz[i]);
  }
  const corner = (grid) => new THREE.Vector3(...grid.map((v, axis) => data.origin[axis] + data.step * v));
  const [low, high, point] = [corner(least), corner(most), new THREE.Vector3()];
  for (let i = 0; data.motion && i < data.motion.length; i += 3) {
    point.fromArray(data.motion, i);
    low.min(point);
    high.max(point);
  }
  const middle = low.clone().add(high).multiplyScalar(0.5);
  return { low, high, middle, radius: Math.max(low.distanceTo(high) / 2, 1e-3) };
}

// Some of the places of points and motion, in metres: enough to see how large the picture gets.
function somePlaces({ origin, step, xyz, behind, motion }) {
  const places = [];
  for (const grid of [xyz, behind ?? []]) {
    const every = Math.max(1, Math.floor(grid.length / 3 / 1000));
    for (let i = 0; i < grid.length; i += 3 * every) {
      places.push(origin.map((o, axis) => o + step * grid[i + axis]));
    }
  }
  for (let i = 0; motion && i < motion.length; i += 3) places.push([...motion.subarray(i, i + 3)]);
  return places;
}

// Diameter of a point in metres, so that points close the surfaces of a room.
function spacing({ step, xyz }) {
  const count = xyz.length / 3;
  const extent = [0, 0, 0];
  for (let i = 0; i < xyz.length; i++) extent[i % 3] = Math.max(extent[i % 3], step * xyz[i]);
  const [x, y, z] = extent;
  const area = x * y + z * (x + y);
  return Math.min(Math.max(1.3 * Math.sqrt(area / count), 0.01), 0.1);
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
