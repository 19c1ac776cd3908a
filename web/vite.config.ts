import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // so that the page also works below a path of a proxy
  build: {
    outDir: "../src/vitral/serve/page",
    emptyOutDir: true,
    assetsInlineLimit: 0, // the server's policy allows files of its own, no data: URLs
    modulePreload: { polyfill: false },
    target: "es2022",
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000", "/health": "http://127.0.0.1:8000" } },
});
