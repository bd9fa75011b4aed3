// What came over the wire, as the browser measured it: bodies as sent, compressed where the server compresses.

const GROUPS = { model: "model/", packages: "node_modules/" };
const PATIENCE = 2000; // milliseconds for the browser to note what it has just read

/**
 * Read a file, and say how far it is.
 *
 * @param {URL} url
 * @param {(read: number, total: number) => void} onProgress total is 0 where the server does not say.
 * @returns {Promise<Uint8Array>}
 */
export async function read(url, onProgress = () => {}) {
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Error(`${shortName(url)} did not load: the server does not answer`);
  }
  if (!response.ok) throw new Error(`${shortName(url)} did not load: the server answered ${response.status}`);
  // Of a compressed body the length that is announced is not the one that is read.
  const total = response.headers.has("Content-Encoding") ? 0 : Number(response.headers.get("Content-Length"));
  const parts = [];
  let length = 0;
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      length += value.length;
      onProgress(length, total);
    }
  } catch {
    throw new Error(`${shortName(url)} did not load: the connection broke off`);
  }
  const whole = new Uint8Array(length);
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}

/** The same, as text. */
export const readText = async (url) => new TextDecoder().decode(await read(url));

/** The same, as JSON. */
export const readJson = async (url) => JSON.parse(await readText(url));

/**
 * Bytes of all responses so far.
 *
 * @param {URL} base Folder of the page.
 * @param {URL[]} awaited Responses that must be among them; the browser notes a response a moment after its end.
 * @returns {Promise<{model: number, packages: number, page: number}>}
 */
export async function measure(base, awaited) {
  const noted = () => performance.getEntriesByType("resource");
  const missing = () => awaited.some((url) => !noted().some((entry) => entry.name === url.href));
  for (const end = performance.now() + PATIENCE; missing() && performance.now() < end; ) {
    await new Promise((resume) => setTimeout(resume, 20));
  }
  const bytes = { model: 0, packages: 0, page: 0 };
  for (const entry of [...performance.getEntriesByType("navigation"), ...noted()]) {
    const found = Object.keys(GROUPS).find((group) => entry.name.startsWith(base.href + GROUPS[group]));
    bytes[found ?? "page"] += entry.encodedBodySize;
  }
  return bytes;
}

const shortName = (url) => url.pathname.split("/").slice(-3).join("/").replace(/^.*?(model\/)/, "$1");
