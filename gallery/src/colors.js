// Colours of points. Each map of colours is perceptually uniform and can be read by colour-blind
// people: closeness is matplotlib's magma (dark page: bright is close; light page: dark is close),
// errors go from blue (too far) over grey to orange (too close).

const MAGMA =
  "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 " +
  "fea772 fec488 fde2a3 fcfdbf";

const parse = (text) =>
  text.split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

// A table of 256 colours, [r, g, b] after [r, g, b], between these stops.
function table(stops) {
  const found = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    for (let c = 0; c < 3; c++) {
      found[3 * i + c] = Math.round(stops[low][c] + (at - low) * (stops[low + 1][c] - stops[low][c]));
    }
  }
  return found;
}

const magma = parse(MAGMA);
export const SCHEMES = {
  dark: {
    background: "#1a1d22",
    text: "#f2f2f2",
    halo: "rgba(12,13,16,.85)",
    target: "#3fd0e0",
    marker: "#7dff8a",
    truth: "#ffffff",
    figure: "#9fb4ff",
    close: table(magma.slice(4)),
    error: table(parse("4da3ff 3d6fa8 4b4f57 a8743a ffa02e")),
  },
  light: {
    background: "#f1f3f5",
    text: "#16181d",
    halo: "rgba(255,255,255,.85)",
    target: "#007f9a",
    marker: "#007a1f",
    truth: "#000000",
    figure: "#2b46c8",
    close: table(magma.slice(1, 16).reverse()),
    error: table(parse("0a5fc4 6c9fd6 c9ccd2 dd9a55 b85c00")),
  },
};

const dark = window.matchMedia("(prefers-color-scheme: dark)");

export const scheme = () => (dark.matches ? SCHEMES.dark : SCHEMES.light);

export const onSchemeChange = (listener) => dark.addEventListener("change", listener);

// Closeness from 0 to 1 of a distance in metres.
export const closeness = (metres, sigma) => Math.exp(-(metres * metres) / (2 * sigma * sigma));

// Closeness (0 to 255) of the points to one joint, or to the closest one where joint is -1.
export function closenessTo(columns, count, joint) {
  if (joint >= 0) return columns.subarray(joint * count, (joint + 1) * count);
  const found = columns.slice(0, count);
  for (let at = count; at < columns.length; at += count) {
    for (let i = 0; i < count; i++) if (columns[at + i] > found[i]) found[i] = columns[at + i];
  }
  return found;
}

// r, g, b of every point.
export function tints(kind, { close, truth, colors, count }) {
  const out = new Uint8Array(3 * count);
  const paint = (lut, value) => {
    for (let i = 0; i < count; i++) {
      const at = 3 * value(i);
      out[3 * i] = lut[at];
      out[3 * i + 1] = lut[at + 1];
      out[3 * i + 2] = lut[at + 2];
    }
  };
  if (kind === "scene" && colors) {
    for (let c = 0; c < 3; c++) {
      for (let i = 0; i < count; i++) out[3 * i + c] = colors[c * count + i];
    }
  } else if (kind === "error" && truth) {
    // Half of the range is for each direction; beyond it the colour stays.
    paint(scheme().error, (i) => Math.max(0, Math.min(255, 128 + close[i] - truth[i])));
  } else {
    paint(scheme().close, (i) => close[i]);
  }
  return out;
}
