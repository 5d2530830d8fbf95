// Builds cdm/gallery/page/gallery.js, which is part of the package: npm ci && npm run build.
import { copyFile, mkdir } from "node:fs/promises";
import { build } from "esbuild";

const page = new URL("../cdm/gallery/page/", import.meta.url);

await mkdir(page, { recursive: true });
await build({
  entryPoints: [new URL("src/main.js", import.meta.url).pathname],
  outfile: new URL("gallery.js", page).pathname,
  bundle: true,
  format: "iife",
  minify: true,
  target: ["es2022"],
  charset: "ascii",
  legalComments: "none",
  banner: { js: "/* Contains three.js, MIT licence: LICENSE-three.txt beside this file. */" },
  supported: { "inline-script": false }, // no </script> in the text, which stands inside a page
});
await copyFile(
  new URL("node_modules/three/LICENSE", import.meta.url),
  new URL("LICENSE-three.txt", page),
);
