// What cdm/gallery/packing.py packed: numbers in base64 of a zlib stream, and where each array lies.

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// The arrays of a packed item by name, and the number of its points. Points of the target come
// last, so that they can be drawn over the rest.
export async function decode(packed) {
  const buffer = await inflate(bytesOf(packed.block));
  const arrays = {};
  let offset = 0;
  for (const [name, type, shape] of packed.layout) {
    const length = shape.reduce((a, b) => a * b, 1);
    arrays[name] = new (type === "u2" ? Uint16Array : Uint8Array)(buffer, offset, length);
    arrays[name].shape = shape;
    offset += length * arrays[name].BYTES_PER_ELEMENT;
  }
  const count = arrays.xyz.shape[1];
  const order = targetLast(arrays.target, count);
  const xyz = new Uint16Array(3 * count);
  order.forEach((from, to) => {
    for (let axis = 0; axis < 3; axis++) xyz[3 * to + axis] = arrays.xyz[axis * count + from];
  });
  const [numMaps, numJoints] = arrays.maps.shape;
  const block = numJoints * count;
  return {
    count,
    numTarget: arrays.target ? arrays.target.reduce((sum, one) => sum + one, 0) : 0,
    xyz,
    maps: Array.from({ length: numMaps }, (_, k) =>
      reordered(arrays.maps.subarray(k * block, (k + 1) * block), order),
    ),
    truth: arrays.truth && reordered(arrays.truth, order),
    colors: arrays.colors && reordered(arrays.colors, order),
    behind: arrays.behind && interleaved(arrays.behind),
    behindColors: arrays.behind_colors && interleaved(arrays.behind_colors),
    motion: arrays.motion && metres(arrays.motion, packed),
    numFrames: arrays.motion ? arrays.motion.shape[0] : 0,
    origin: packed.origin,
    step: packed.step,
    closest: packed.closest,
    trueClosest: packed.true,
  };
}

function targetLast(target, count) {
  const order = new Uint32Array(count);
  let at = 0;
  for (let i = 0; i < count; i++) if (!target || !target[i]) order[at++] = i;
  for (let i = 0; i < count; i++) if (target && target[i]) order[at++] = i;
  return order;
}

// Rows of `order.length` values, each with its values in this order.
function reordered(rows, order) {
  const out = new Uint8Array(rows.length);
  for (let at = 0; at < rows.length; at += order.length) {
    for (let i = 0; i < order.length; i++) out[at + i] = rows[at + order[i]];
  }
  return out;
}

// Three rows of values as x, y, z after x, y, z.
function interleaved(rows) {
  const count = rows.length / 3;
  return rows.map((_, i) => rows[(i % 3) * count + Math.floor(i / 3)]);
}

function metres(grid, { origin, step }) {
  return Float32Array.from(grid, (value, i) => origin[i % 3] + step * value);
}
