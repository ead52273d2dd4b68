// Loads the model into LiteRT.js: on the GPU if the browser has WebGPU and the model runs there, else on the CPU.

import { loadAndCompile, loadLiteRt, supportsFeature, Tensor } from "./litert/core.js";

const MODEL = "model.tflite";
const EMPTY_MODULE = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);

/**
 * Returns {device, run}: `run` maps RGB bytes (height, width, 3) to {probabilities, milliseconds}.
 * `progress` is called with the bytes of the model that have arrived.
 */
export async function load([height, width], classes, progress) {
  try {
    new WebAssembly.Module(EMPTY_MODULE);
  } catch (error) {
    const advice = "If its server sends a Content-Security-Policy, script-src must allow 'wasm-unsafe-eval'.";
    throw new Error(`WebAssembly is not allowed on this page. ${advice} (${error.message})`);
  }
  const gpu = await hasGpu();
  // Parts of a model that WebGPU lacks run on the CPU, which needs JavaScript promise integration.
  const jspi = gpu && (await supportsFeature("jspi"));
  const [bytes] = await Promise.all([download(progress), loadLiteRt("litert/wasm/", { jspi })]);
  if (gpu) {
    try {
      const model = await loadAndCompile(bytes, { accelerator: "webgpu", gpuOptions: { precision: "fp32" } });
      const run = (pixels) => classify(model, pixels, height, width);
      // Drivers fail in many ways, and the first run compiles shaders, so try it before a visitor waits for it.
      const { probabilities } = await run(new Uint8Array(height * width * 3).fill(128));
      if (probabilities.length === classes && probabilities.every((p) => p >= 0 && p <= 1.001)) {
        return { device: model.isFullyAccelerated ? "WebGPU" : "WebGPU and WebAssembly", run };
      }
      model.delete();
      console.warn("WebGPU returned numbers that are not probabilities; using WebAssembly.");
    } catch (error) {
      console.warn("The model does not run on WebGPU; using WebAssembly.", error);
    }
  }
  const model = await loadAndCompile(bytes, { accelerator: "wasm" });
  return { device: "WebAssembly on the CPU", run: (pixels) => classify(model, pixels, height, width) };
}

/** Whether WebGPU has a real GPU; its software fallback is many times slower than WebAssembly. */
async function hasGpu() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return Boolean(adapter) && !adapter.info.isFallbackAdapter;
  } catch {
    return false;
  }
}

async function download(progress) {
  const response = await fetch(MODEL);
  if (!response.ok) throw new Error(`${MODEL} could not be loaded: ${response.status} ${response.statusText}`);
  const reader = response.body.getReader();
  const chunks = [];
  let size = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    chunks.push(part.value);
    size += part.value.length;
    progress(size);
  }
  const bytes = new Uint8Array(size);
  chunks.reduce((offset, chunk) => (bytes.set(chunk, offset), offset + chunk.length), 0);
  return bytes;
}

async function classify(model, pixels, height, width) {
  const input = new Tensor(Float32Array.from(pixels), [1, height, width, 3]);
  try {
    const start = performance.now();
    const outputs = await model.run({ image: input });
    const probabilities = Array.from(await outputs.probabilities.data());
    const milliseconds = performance.now() - start;
    outputs.probabilities.delete();
    return { probabilities, milliseconds };
  } finally {
    input.delete();
  }
}
