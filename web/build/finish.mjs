// After the build: what runs before the page is painted, compressed copies beside each file, and the page's budget.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const DIST = new URL("../dist/", import.meta.url).pathname;
const EARLY = "/src/theme.js"; // no module, so that the bundler leaves it alone
const BUDGET_BYTES = 150 * 1024; // the JavaScript that the page begins with, gzip
const LOADER = "widget.js";
const LOADER_BUDGET_BYTES = 2 * 1024; // every page of a host loads it
const COMPRESSIBLE = /\.(js|css|html|svg|json)$/;
const SMALLEST_BYTES = 512; // below it a compressed copy saves nothing

const early = readFileSync(new URL(`..${EARLY}`, import.meta.url));
const earlyName = `/assets/theme-${createHash("sha256").update(early).digest("hex").slice(0, 8)}.js`;
writeFileSync(join(DIST, earlyName), early);
for (const name of readdirSync(DIST).filter((each) => each.endsWith(".html"))) {
  writeFileSync(join(DIST, name), readFileSync(join(DIST, name), "utf8").replaceAll(EARLY, earlyName));
}

const first = readFileSync(join(DIST, "index.html"), "utf8");
const sizes = { first: 0, later: 0, loader: 0 };
for (const entry of readdirSync(DIST, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile() || !COMPRESSIBLE.test(entry.name)) continue;
  const path = join(entry.parentPath, entry.name);
  const bytes = readFileSync(path);
  const gzip = gzipSync(bytes, { level: 9 });
  const part = entry.name === LOADER ? "loader" : first.includes(`/${entry.name}"`) ? "first" : "later";
  if (entry.name.endsWith(".js")) sizes[part] += gzip.length;
  if (bytes.length < SMALLEST_BYTES) continue;
  writeFileSync(`${path}.gz`, gzip);
  writeFileSync(`${path}.br`, brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }));
}
const kilobytes = (bytes) => `${(bytes / 1024).toFixed(1)} KiB`;
console.log(
  `JavaScript, gzip: ${kilobytes(sizes.first)} (budget ${kilobytes(BUDGET_BYTES)}), ` +
    `${kilobytes(sizes.later)} when wanted; the widget's loader: ${sizes.loader} bytes (budget ${LOADER_BUDGET_BYTES})`,
);
if (sizes.first > BUDGET_BYTES || sizes.loader > LOADER_BUDGET_BYTES) {
  console.error("The page or the widget's loader is over its budget.");
  process.exit(1);
}
