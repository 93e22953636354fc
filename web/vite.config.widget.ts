import { defineConfig } from "vite";

/** The loader for host pages: one classic script, whose name stays. */
export default defineConfig({
  publicDir: false,
  build: {
    cssTarget: "esnext",
    target: "es2022",
    emptyOutDir: false,
    lib: { entry: "src/widget/loader.ts", formats: ["iife"], name: "ParleyLoader", fileName: () => "widget.js" },
  },
});
