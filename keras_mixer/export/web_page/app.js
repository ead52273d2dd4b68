import { decode, fromDrawable, prepare } from "./pixels.js";
import { load } from "./runtime.js";

const SHOWN = 5;
const element = (id) => document.getElementById(id);
const [zone, file, camera, video] = ["drop-zone", "file", "camera", "video"].map(element);

const ready = start();
let queue = Promise.resolve(); // one image at a time

async function start() {
  element("not-started").remove();
  element("status").textContent = "Loading the model …";
  element("loading").hidden = false;
  try {
    const [description, card] = await Promise.all(["model.json", "card.json"].map(async (name) => (await fetch(name)).json()));
    showCard(card, description.class_names);
    const total = card.model_bytes;
    const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
    const runtime = await load(description.input_shape, description.class_names.length, (bytes) => {
      element("progress").value = bytes / total;
      element("loaded").textContent = `${megabytes(bytes)} of ${megabytes(total)} MB`;
    });
    element("loading").hidden = true;
    element("status").textContent = "The model is ready.";
    element("device").textContent = `It runs on your device with ${runtime.device}.`;
    return { description, runtime };
  } catch (error) {
    element("loading").hidden = true;
    fail(`The model cannot run here. ${error.message ?? error}`);
    throw error;
  }
}

function create(tag, text, properties = {}) {
  const created = Object.assign(document.createElement(tag), properties);
  if (text !== null) created.textContent = text;
  return created;
}

function showCard({ name, facts, examples }, names) {
  document.title = element("name").textContent = name;
  element("facts").replaceChildren(...facts.flatMap(([term, text]) => [create("dt", term), create("dd", text)]));
  element("classes-count").textContent = `${names.length} classes`;
  element("classes").replaceChildren(...names.map((label) => create("li", label)));
  const few = names.length <= 2 * SHOWN;
  const named = few ? `: ${names.join(", ")}` : `, such as ${names.slice(0, SHOWN).join(", ")}`;
  element("known").textContent = `Recognizes ${names.length} classes${named}.`;
  element("examples").replaceChildren(
    ...examples.map(({ file, label }) => {
      const button = create("button", null, { type: "button", className: "example" });
      button.append(create("img", null, { src: file, alt: `Classify this example of ${label}` }));
      button.addEventListener("click", async () => showFile(await (await fetch(file)).blob()));
      const item = create("li", null);
      item.append(button);
      return item;
    }),
  );
  element("examples-box").hidden = !examples.length;
}

/** What the model says about decoded pixels. */
async function classify(image) {
  const { description, runtime } = await ready;
  const [height, width] = description.input_shape;
  const seen = prepare(image, height, width, description.evaluation_crop);
  return { ...(await runtime.run(seen.data)), seen, names: description.class_names, device: runtime.device };
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
      showResult(image, await classify(image));
    } catch (error) {
      fail(`The model failed on this image. LiteRT.js error: ${error.message ?? error}`);
    }
  });
  return queue;
}

function showResult(image, { probabilities, milliseconds, seen, names, device }) {
  const best = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, SHOWN);
  const percent = (i) => `${(100 * probabilities[i]).toFixed(1)} %`;
  element("bars").replaceChildren(
    ...best.map((i) => {
      const item = create("li", null);
      const bar = create("div", null, { className: "bar" });
      bar.style.width = `${100 * probabilities[i]}%`;
      bar.setAttribute("aria-hidden", "true"); // the percentage says the same
      item.append(create("span", names[i]), create("span", percent(i)), bar);
      return item;
    }),
  );
  element("latency").textContent = `${milliseconds.toFixed(1)} ms with ${device}`;
  element("status").textContent = `${names[best[0]]}, ${percent(best[0])}`;
  element("result").hidden = false;
  drawPhoto(image.preview, seen.window);
  drawSeen(seen);
  element("result").scrollIntoView({ block: "nearest" });
  const { window } = seen;
  document.dispatchEvent(new CustomEvent("classified", { detail: { probabilities, milliseconds, device, window } }));
}

/** The image as the visitor knows it, with the part that the model sees in a frame. */
function drawPhoto(preview, window) {
  const canvas = element("photo");
  [canvas.width, canvas.height] = [preview.width, preview.height];
  canvas.getContext("2d").drawImage(preview, 0, 0);
  canvas.classList.toggle("tiny", Math.max(preview.width, preview.height) < 100);
  for (const side of ["left", "top", "width", "height"]) element("crop").style[side] = `${100 * window[side]}%`;
  const whole = window.width === 1 && window.height === 1;
  element("crop").hidden = whole;
  element("photo-caption").textContent = whole ? "Your image, all of which the model sees" : "Your image; the model sees the part in the frame";
}

function drawSeen({ width, height, data }) {
  const canvas = element("seen");
  [canvas.width, canvas.height] = [width, height];
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    pixels.data.set([data[3 * i], data[3 * i + 1], data[3 * i + 2], 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  element("seen-caption").textContent = `What the model sees: ${width} x ${height} px`;
}

function fail(message) {
  element("result").hidden = true;
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
    camera.textContent = "Classify the camera image";
    return;
  }
  show(async () => fromDrawable(video));
});
