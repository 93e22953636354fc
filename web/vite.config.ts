import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

const GATEWAY = "http://127.0.0.1:8080"; // for `npm run dev`

export default defineConfig({
  plugins: [react()],
  build: {
    target: "es2022",
    // Everything is a file of our own: a policy without `data:` scripts and styles holds.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: { page: "index.html", embed: "embed.html" } },
  },
  server: { proxy: Object.fromEntries(["/v1", "/api", "/session", "/health"].map((path) => [path, GATEWAY])) },
  test: { include: ["test/**/*.test.ts"], environment: "node" },
});
