// ------------------------------------------------------------------ spectrograms

const FFT_SIZE = 512; // 32 ms: the harmonics of a voice are told apart
const BINS = FFT_SIZE / 2;
const FLOOR_DB = -75; // below the loudest bin of the reference
const STEPS = 256;
const DIFFERENCE_DB = 20;

// Perceptually even maps (matplotlib's magma; blue over grey to orange for differences).
const MAGMA = ("000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 " +
  "f56b5c fc8961 fea772 fec488 fde2a3 fcfdbf").split(" ");
const DIVERGING = "2f8cff 2a66b8 274a7c 232f45 1c1c20 4a3321 864d1c c86d17 ff9a3c".split(" ");

/** Return a table of RGBA for STEPS levels, linear between the given colours. */
function colourTable(colours) {
  const points = colours.map((c) => [0, 2, 4].map((i) => parseInt(c.slice(i, i + 2), 16)));
  const table = new Uint32Array(STEPS);
  const bytes = new Uint8Array(table.buffer);
  for (let i = 0; i < STEPS; i += 1) {
    const x = (i / (STEPS - 1)) * (points.length - 1);
    const k = Math.min(Math.floor(x), points.length - 2);
    for (let c = 0; c < 3; c += 1) {
      bytes[4 * i + c] = points[k][c] + (x - k) * (points[k + 1][c] - points[k][c]);
    }
    bytes[4 * i + 3] = 255;
  }
  return table;
}

const magma = colourTable(MAGMA);
const diverging = colourTable(DIVERGING);

/** In-place complex FFT of FFT_SIZE points (radix 2). */
const fft = (() => {
  const n = FFT_SIZE;
  const cos = Float64Array.from({ length: n / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / n));
  const sin = Float64Array.from({ length: n / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / n));
  const bits = Math.log2(n);
  const reversed = Uint16Array.from({ length: n }, (_, i) => {
    let r = 0;
    for (let b = 0; b < bits; b += 1) r |= ((i >> b) & 1) << (bits - 1 - b);
    return r;
  });
  return (re, im) => {
    for (let i = 0; i < n; i += 1) {
      const j = reversed[i];
      if (j > i) {
        [re[i], re[j]] = [re[j], re[i]];
        [im[i], im[j]] = [im[j], im[i]];
      }
    }
    for (let size = 2; size <= n; size *= 2) {
      const half = size / 2;
      const step = n / size;
      for (let start = 0; start < n; start += size) {
        for (let k = 0; k < half; k += 1) {
          const a = start + k;
          const b = a + half;
          const c = cos[k * step];
          const s = sin[k * step];
          const x = re[b] * c + im[b] * s;
          const y = im[b] * c - re[b] * s;
          re[b] = re[a] - x;
          im[b] = im[a] - y;
          re[a] += x;
          im[a] += y;
        }
      }
    }
  };
})();

const hann = Float64Array.from({ length: FFT_SIZE }, (_, i) => {
  return 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / FFT_SIZE);
});

/** Return levels in dB, Float32 [columns * BINS], column after column from low to high. */
function levels(samples) {
  const columns = Math.max(1, Math.min(1000, Math.ceil(samples.length / 32)));
  const out = new Float32Array(columns * BINS);
  const re = new Float64Array(FFT_SIZE);
  const im = new Float64Array(FFT_SIZE);
  for (let column = 0; column < columns; column += 1) {
    // The frame is centred on its column.
    const start = Math.round(((column + 0.5) / columns) * samples.length) - FFT_SIZE / 2;
    for (let i = 0; i < FFT_SIZE; i += 1) re[i] = hann[i] * (samples[start + i] ?? 0);
    im.fill(0);
    fft(re, im);
    for (let k = 0; k < BINS; k += 1) {
      out[column * BINS + k] = 10 * Math.log10(re[k] * re[k] + im[k] * im[k] + 1e-10);
    }
  }
  return out;
}

/** Levels of sounds by number, each computed once. */
const spectra = new Map();

async function spectrum(id) {
  if (!spectra.has(id)) {
    const buffer = await library.get(id);
    spectra.set(id, levels(buffer.getChannelData(0)));
  }
  return spectra.get(id);
}

/** Return the highest level. */
function loudest(db) {
  return db.reduce((a, b) => Math.max(a, b), -Infinity);
}

/**
 * Paint a spectrogram, or where `reference` is given, how much louder (orange) or softer (blue)
 * than the reference each spot is. `top` is the level of the brightest colour, dB.
 */
function paint(canvas, db, top, reference = null) {
  const columns = db.length / BINS;
  canvas.width = columns;
  canvas.height = BINS;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, BINS);
  const pixels = new Uint32Array(image.data.buffer);
  const floor = top + FLOOR_DB;
  for (let x = 0; x < columns; x += 1) {
    for (let k = 0; k < BINS; k += 1) {
      const level = db[x * BINS + k];
      const pixel = (BINS - 1 - k) * columns + x;
      if (reference) {
        // Below the floor all is equally silent.
        const change = Math.max(level, floor) - Math.max(reference[x * BINS + k], floor);
        const share = (change / DIFFERENCE_DB + 1) / 2;
        pixels[pixel] = diverging[Math.max(0, Math.min(STEPS - 1, Math.round(share * 255)))];
      } else {
        const share = (level - floor) / -FLOOR_DB;
        pixels[pixel] = magma[Math.max(0, Math.min(STEPS - 1, Math.round(share * 255)))];
      }
    }
  }
  context.putImageData(image, 0, 0);
}
