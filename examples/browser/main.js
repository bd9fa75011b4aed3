// The page: load, embed the list once, rank it by meaning as you type.

import { measure, readJson, readText } from "./wire.js";

const BASE = new URL(".", import.meta.url);
const MODEL = new URL("model/", BASE);
const BATCH = 8;
const SHOWN = 8;
const PAUSE = 120; // milliseconds without a key before a search

const $ = (id) => document.getElementById(id);

/** Resolves, once the page is ready, to the encoder; to null where something did not load. */
export const ready = start().catch((error) => {
  $("loading").hidden = true;
  $("error").textContent = error.message;
  $("error").hidden = false;
  return null;
});

async function start() {
  const [about, lines] = await Promise.all([
    readJson(new URL("about.json", MODEL)).catch((error) => {
      throw new Error(`${error.message}. Make the model first, with make_model.py.`);
    }),
    readText(new URL("sentences.txt", BASE)),
  ]);
  const sentences = lines.split("\n").filter((line) => line && !line.startsWith("#"));
  const { loadEncoder, cosine } = await import("./encoder.js").catch(() => {
    throw new Error("The packages did not load. Install them first: npm ci, in the folder of this page.");
  });
  const encoder = await loadEncoder(MODEL, (read, total) => {
    progress(`Loading the model: ${megabytes(read)}${total ? ` of ${megabytes(total)}` : ""}`, read, total);
    if (read === total) progress("Starting the runtime");
  });
  const vectors = [];
  for (let place = 0; place < sentences.length; place += BATCH) {
    progress(`Reading sentences: ${place} of ${sentences.length}`, place, sentences.length);
    vectors.push(...(await encoder.embed(sentences.slice(place, place + BATCH))));
    await new Promise((resume) => setTimeout(resume)); // lets the page draw
  }
  const files = ["onnx/model.onnx", "tokenizer.json", "tokenizer_config.json", "about.json"];
  showWire(about, await measure(BASE, files.map((name) => new URL(name, MODEL))));
  $("all").replaceChildren(...sentences.map((text) => element("li", "", text)));
  $("all").parentElement.hidden = false;
  listen(sentences, async (query) => {
    const begin = performance.now();
    const [vector] = await encoder.embed([query]);
    const ranked = sentences.map((text, place) => ({ text, score: cosine(vector, vectors[place]) }));
    ranked.sort((a, b) => b.score - a.score);
    show(ranked, `${sentences.length} sentences ranked in ${Math.round(performance.now() - begin)} ms.`);
  });
  return encoder;
}

/** Search what is typed, one run at a time; of what is typed meanwhile, the last. */
function listen(sentences, search) {
  const field = $("query");
  const wait = `${sentences.length} sentences are ready.`;
  let timer, running = false, again = false;
  const run = async () => {
    if (running) {
      again = true;
      return;
    }
    running = true;
    do {
      again = false;
      const query = field.value.trim();
      if (query) await search(query);
      if (!field.value.trim()) show([], wait);
    } while (again);
    running = false;
  };
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(run, PAUSE);
  });
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    run();
  });
  for (const button of document.querySelectorAll("#examples button")) {
    button.addEventListener("click", () => {
      field.value = button.textContent;
      run();
    });
    button.disabled = false;
  }
  $("loading").hidden = true;
  field.disabled = false;
  field.focus({ preventScroll: true });
  run();
}

function show(ranked, status) {
  $("status").textContent = status;
  $("results").replaceChildren(
    ...ranked.slice(0, SHOWN).map(({ text, score }) => {
      const item = document.createElement("li");
      item.style.setProperty("--score", Math.max(0, score).toFixed(3));
      item.append(element("span", "text", text), element("span", "score", score.toFixed(2)));
      item.lastChild.title = "cosine of the angle between the two meanings";
      return item;
    }),
  );
}

function showWire(about, bytes) {
  const original = Object.values(about.original_files).reduce((sum, size) => sum + size, 0);
  const sizes = {
    model: bytes.model,
    original,
    packages: bytes.packages,
    "table-before": about.table_bytes_before,
    "table-after": about.table_bytes_after,
    "rest-before": about.rest_bytes_before,
    "rest-after": about.rest_bytes_after,
  };
  for (const [name, size] of Object.entries(sizes)) {
    for (const place of document.querySelectorAll(`data[data-size="${name}"]`)) {
      place.value = size;
      place.textContent = megabytes(size);
    }
  }
  const most = Math.max(bytes.model, original);
  $("bar-model").style.width = `${(100 * bytes.model) / most}%`;
  $("bar-original").style.width = `${(100 * original) / most}%`;
  $("model-name").textContent = about.name;
  $("wire").hidden = false;
}

function progress(text, value, total) {
  $("progress-text").textContent = text;
  const bar = $("progress");
  if (total) {
    bar.max = total;
    bar.value = value;
  } else {
    bar.removeAttribute("value");
  }
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
