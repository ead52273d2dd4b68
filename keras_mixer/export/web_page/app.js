import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { decode, fromDrawable, prepare } from "./pixels.js";

const SHOWN = 5;
const element = (id) => document.getElementById(id);
const [zone, file, camera, video] = ["drop-zone", "file", "camera", "video"].map(element);

const ready = load();
let queue = Promise.resolve(); // one image at a time

async function load() {
  try {
    const description = await (await fetch("model.json")).json();
    await loadLiteRt("litert/wasm/");
    const model = await loadAndCompile("model.tflite", { accelerator: "wasm" });
    element("status").textContent = "The model is ready.";
    return { description, model };
  } catch (error) {
    fail(`The model cannot run in this browser. LiteRT.js error: ${error.message ?? error}`);
    throw error;
  }
}

/** Probabilities in class order for decoded pixels, and the model's run time in milliseconds. */
async function classify(image) {
  const { description, model } = await ready;
  const [height, width] = description.input_shape;
  const seen = prepare(image, height, width, description.evaluation_crop);
  const input = new Tensor(Float32Array.from(seen.data), [1, height, width, 3]);
  const start = performance.now();
  const outputs = await model.run({ image: input });
  const probabilities = Array.from(await outputs.probabilities.data());
  const milliseconds = performance.now() - start;
  input.delete();
  outputs.probabilities.delete();
  return { probabilities, milliseconds, seen, names: description.class_names };
}

function show(source) {
  queue = queue.then(async () => {
    element("error").textContent = "";
    let image;
    try {
      image = await source();
    } catch (error) {
      fail(error.message);
      return;
    }
    try {
      showResult(await classify(image));
    } catch (error) {
      fail(`The model failed on this image. LiteRT.js error: ${error.message ?? error}`);
    }
  });
  return queue;
}

function showResult({ probabilities, milliseconds, seen, names }) {
  const best = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, SHOWN);
  const percent = (i) => `${(100 * probabilities[i]).toFixed(1)} %`;
  element("bars").replaceChildren(
    ...best.map((i) => {
      const item = document.createElement("li");
      const [name, probability, bar] = ["span", "span", "div"].map((tag) => document.createElement(tag));
      name.textContent = names[i];
      probability.textContent = percent(i);
      bar.className = "bar";
      bar.style.width = `${100 * probabilities[i]}%`;
      bar.setAttribute("aria-hidden", "true"); // the percentage says the same
      item.append(name, probability, bar);
      return item;
    }),
  );
  element("latency").textContent = `Inference took ${milliseconds.toFixed(1)} ms.`;
  element("status").textContent = `${names[best[0]]}, ${percent(best[0])}`;
  element("result").hidden = false;
  draw(seen);
  document.dispatchEvent(new CustomEvent("classified", { detail: { probabilities, milliseconds } }));
}

function draw({ width, height, data }) {
  const canvas = element("seen");
  [canvas.width, canvas.height, canvas.hidden] = [width, height, false];
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    pixels.data.set([data[3 * i], data[3 * i + 1], data[3 * i + 2], 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function fail(message) {
  element("result").hidden = true;
  element("seen").hidden = true;
  element("status").textContent = "";
  element("error").textContent = message;
  document.dispatchEvent(new CustomEvent("failed", { detail: { message } }));
}

function showFile(blob) {
  return show(async () => {
    try {
      return await decode(blob);
    } catch {
      throw new Error(`${blob.name ?? "This"} is not an image that this browser can read; expected JPEG, PNG, GIF, BMP or WebP.`);
    }
  });
}

file.addEventListener("change", () => {
  if (file.files.length) showFile(file.files[0]);
  file.value = ""; // so that the same file can be chosen again
});

for (const [event, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(event, (drag) => {
    drag.preventDefault(); // otherwise the browser opens the file
    zone.classList.toggle("over", over);
  });
}

document.addEventListener("drop", (drag) => {
  const [dropped] = drag.dataTransfer.files;
  if (dropped) showFile(dropped);
  else show(async () => { throw new Error("Expected an image file; drop a file instead."); });
});

document.addEventListener("paste", (event) => {
  const [pasted] = event.clipboardData.files;
  if (pasted) showFile(pasted);
});

camera.addEventListener("click", async () => {
  if (!video.srcObject) {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      fail(`The camera is not available: ${error.message}`);
      return;
    }
    await video.play();
    video.hidden = false;
    camera.textContent = "classify the camera image";
    return;
  }
  show(async () => fromDrawable(video));
});
