// Turns an image file into the pixels for the model, exactly as keras_mixer/data/decode.py: resizing bilinearly
// without anti-aliasing or by area, truncation to integers, central crop with the offset rounded down.

const PREVIEW = 640; // longest side in pixels of the image shown

/** Decodes an image upright, as its EXIF orientation says; throws if the browser cannot read it. */
export async function decode(blob) {
  const options = { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" };
  return fromDrawable(await createImageBitmap(blob, options));
}

/** An image bitmap or the current frame of a video as {width, height, data: RGB bytes, preview: a small canvas}. */
export function fromDrawable(source) {
  const width = source.videoWidth ?? source.width;
  const height = source.videoHeight ?? source.height;
  const context = drawn(source, width, height);
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  const scale = Math.min(1, PREVIEW / Math.max(width, height));
  const preview = drawn(context.canvas, Math.ceil(width * scale), Math.ceil(height * scale)).canvas;
  return { width, height, data, preview };
}

function drawn(source, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0, width, height);
  return context;
}

/**
 * Resizes and crops an image to the model's size; `crop` is one of "resize", "resize-crop", "resmall-crop".
 * The `window` of the result is the part of the image that is left, in fractions of its sides.
 */
export function prepare(image, height, width, crop) {
  if (crop === "resize") {
    return { ...bilinear(image, height, width), window: { left: 0, top: 0, width: 1, height: 1 } };
  }
  const tall = Math.round((height * 8) / 7);
  const wide = Math.round((width * 8) / 7);
  let resized;
  if (crop === "resize-crop") {
    resized = bilinear(image, tall, wide);
  } else {
    const fround = Math.fround;
    const scale = Math.max(fround(tall / image.height), fround(wide / image.width));
    resized = area(image, halfToEven(fround(image.height * scale)), halfToEven(fround(image.width * scale)));
  }
  return central(resized, height, width);
}

function bilinear(image, height, width) {
  const { fround } = Math;
  const out = new Uint8Array(height * width * 3);
  const rows = neighbors(image.height, height);
  const columns = neighbors(image.width, width);
  for (let y = 0; y < height; y++) {
    const row = rows[y];
    for (let x = 0; x < width; x++) {
      const column = columns[x];
      for (let c = 0; c < 3; c++) {
        const at = (i, j) => image.data[(i * image.width + j) * 3 + c];
        const mix = (from, to, weight) => fround(from + fround(fround(to - from) * weight));
        const upper = mix(at(row.low, column.low), at(row.low, column.high), column.weight);
        const lower = mix(at(row.high, column.low), at(row.high, column.high), column.weight);
        out[(y * width + x) * 3 + c] = mix(upper, lower, row.weight);
      }
    }
  }
  return { width, height, data: out };
}

function neighbors(from, to) {
  const scale = Math.fround(from / to);
  return Array.from({ length: to }, (_, i) => {
    const place = Math.fround(Math.fround((i + 0.5) * scale) - 0.5);
    const floor = Math.floor(place);
    return {
      low: Math.max(floor, 0),
      high: Math.min(Math.ceil(place), from - 1),
      weight: Math.fround(place - floor),
    };
  });
}

function area(image, height, width) {
  const out = new Uint8Array(height * width * 3);
  const rows = overlaps(image.height, height);
  const columns = overlaps(image.width, width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const sums = [0, 0, 0];
      let total = 0;
      for (const [i, tall] of rows[y]) {
        for (const [j, wide] of columns[x]) {
          const weight = tall * wide;
          const at = (i * image.width + j) * 3;
          total += weight;
          for (let c = 0; c < 3; c++) sums[c] += image.data[at + c] * weight;
        }
      }
      // Rounding errors may put an integer slightly below itself, and the result is truncated.
      for (let c = 0; c < 3; c++) out[(y * width + x) * 3 + c] = sums[c] / total + 1e-4;
    }
  }
  return { width, height, data: out };
}

/** For each of `to` intervals, the [index, length] of its overlaps with `from` unit intervals. */
function overlaps(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, k) => {
    const start = k * scale;
    const end = (k + 1) * scale;
    const parts = [];
    for (let i = Math.floor(start); i < Math.ceil(end); i++) {
      parts.push([Math.min(i, from - 1), Math.min(i + 1, end) - Math.max(i, start)]);
    }
    return parts;
  });
}

function central(image, height, width) {
  const top = Math.floor((image.height - height) / 2);
  const left = Math.floor((image.width - width) / 2);
  const out = new Uint8Array(height * width * 3);
  for (let y = 0; y < height; y++) {
    const begin = ((top + y) * image.width + left) * 3;
    out.set(image.data.subarray(begin, begin + width * 3), y * width * 3);
  }
  const window = {
    left: left / image.width,
    top: top / image.height,
    width: width / image.width,
    height: height / image.height,
  };
  return { width, height, data: out, window };
}

function halfToEven(x) {
  const rounded = Math.round(x);
  return x % 1 === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
