const { build } = require("esbuild");

build({ entryPoints: ["src/index.ts"], bundle: true, outfile: "index.js" });
