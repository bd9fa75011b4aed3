// Sentences to unit vectors: tokens, the model, the mean over tokens.

import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-web/wasm";
import { read, readJson } from "./wire.js";

const MAX_TOKENS = 256; // as in the sentence_bert_config.json of all-MiniLM-L6-v2

export class Encoder {
  #session;
  #tokenizer;

  constructor(session, tokenizer) {
    this.#session = session;
    this.#tokenizer = tokenizer;
  }

  /**
   * @param {string[]} texts At least one.
   * @returns {Promise<Float32Array[]>} A vector of length 1 for each.
   */
  async embed(texts) {
    const rows = texts.map((text) => this.#tokens(text));
    const length = Math.max(...rows.map((row) => row.length));
    const ids = new BigInt64Array(rows.length * length); // zeros: what pads is masked
    const mask = new BigInt64Array(rows.length * length);
    rows.forEach((row, place) => {
      ids.set(row.map(BigInt), place * length);
      mask.fill(1n, place * length, place * length + row.length);
    });
    const values = { input_ids: ids, attention_mask: mask, token_type_ids: new BigInt64Array(ids.length) };
    const feeds = {};
    for (const name of this.#session.inputNames) {
      feeds[name] = new ort.Tensor("int64", values[name], [rows.length, length]);
    }
    const { last_hidden_state: hidden } = await this.#session.run(feeds);
    const found = rows.map((row, place) => meanOfTokens(hidden, place, row.length));
    hidden.dispose();
    return found;
  }

  #tokens(text) {
    const { ids } = this.#tokenizer.encode(text);
    return ids.length <= MAX_TOKENS ? ids : [...ids.slice(0, MAX_TOKENS - 1), ids.at(-1)]; // the last one ends a text
  }
}

/** The mean of a row's first `count` vectors, scaled to length 1. */
function meanOfTokens(hidden, row, count) {
  const [, length, width] = hidden.dims;
  const sum = new Float32Array(width);
  for (let token = 0; token < count; token++) {
    const start = (row * length + token) * width;
    for (let column = 0; column < width; column++) sum[column] += hidden.data[start + column];
  }
  const norm = Math.hypot(...sum);
  return sum.map((value) => value / norm);
}

/** Inner product; the cosine of two unit vectors. */
export function cosine(a, b) {
  return a.reduce((sum, value, place) => sum + value * b[place], 0);
}

/**
 * @param {URL} folder What `vocabpress export` wrote.
 * @param {(read: number, total: number) => void} onProgress Bytes of the graph.
 * @returns {Promise<Encoder>}
 */
export async function loadEncoder(folder, onProgress) {
  const [graph, tokenizer, config] = await Promise.all([
    read(new URL("onnx/model.onnx", folder), onProgress),
    readJson(new URL("tokenizer.json", folder)),
    readJson(new URL("tokenizer_config.json", folder)),
  ]);
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  return new Encoder(session, new Tokenizer(tokenizer, config));
}
