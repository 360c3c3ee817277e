// Every call of the published @fal-ai/client, whatever its version. Arguments: the model, how the
// client is led here (proxy, middleware, fetch, or connect for environment variables alone), and
// the gateway's URL.
import { fal } from "@fal-ai/client";
import { Lacking, tried } from "./compatibility.mjs";

const [model, way, base] = process.argv.slice(2);
const hosts = { "fal.run": "/run", "queue.fal.run": "/queue", "rest.fal.ai": "/rest" };
hosts["rest.alpha.fal.ai"] = "/rest";
const mapped = (url) => {
  const from = new URL(url);
  const prefix = hosts[from.host];
  return prefix === undefined ? String(url) : `${base}${prefix}${from.pathname}${from.search}`;
};
const ways = {
  connect: {},
  proxy: { proxyUrl: { url: `${base}/api/fal/proxy`, when: "always" } },
  middleware: { requestMiddleware: async (request) => ({ ...request, url: mapped(request.url) }) },
  fetch: { fetch: (url, init) => fetch(mapped(url), init) },
};
fal.config({ credentials: process.env.FAL_KEY, ...ways[way] });
if (way !== "connect") {
  // No option reaches the socket.
  const there = base.replace("http", "ws");
  globalThis.WebSocket = class extends WebSocket {
    constructor(url) {
      super(String(url).replace("wss://fal.run", there));
    }
  };
}

const input = { prompt: "a red circle", seed: 7, num_inference_steps: 2 };
const drawn = (data) => Boolean(data.images[0].url);
const blob = () => new Blob(["some bytes"], { type: "text/plain" });
const submitted = async (more = {}) =>
  (await fal.queue.submit(model, { input: { ...input, ...more } })).request_id;

async function ended(requestId) {
  for (;;) {
    const { status } = await fal.queue.status(model, { requestId, logs: true });
    if (status === "COMPLETED") return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function subscribe(options) {
  const seen = [];
  const { data, requestId } = await fal.subscribe(model, {
    input,
    logs: true,
    onEnqueue: () => seen.push("enqueued"),
    onQueueUpdate: (update) => seen.push(update.status),
    ...options,
  });
  return drawn(data) && requestId && seen.at(-1) === "COMPLETED";
}

async function realtime() {
  const result = await new Promise((resolve, reject) => {
    const connection = fal.realtime.connect(model, {
      connectionKey: "compatibility",
      throttleInterval: 0,
      onResult: (found) => {
        connection.close();
        resolve(found);
      },
      onError: reject,
    });
    connection.send(input);
  });
  return result.images[0].content.length > 100;
}

async function streamStatus() {
  const stream = await fal.queue.streamStatus(model, { requestId: await submitted(), logs: true });
  let count = 0;
  for await (const _ of stream) count += 1;
  // The iterator of 1.2.3 drops what is still in its buffer when the stream ends; `done` does not.
  return count > 0 && (await stream.done()).status === "COMPLETED";
}

async function stream(options = {}) {
  const events = await fal.stream(model, { input, ...options });
  let count = 0;
  for await (const _ of events) count += 1;
  return count > 0 && drawn(await events.done());
}

async function cancel() {
  const requestId = await submitted({ num_inference_steps: 100 });
  await fal.queue.cancel(model, { requestId });
  await ended(requestId);
  try {
    await fal.queue.result(model, { requestId });
  } catch (error) {
    return error.status >= 400;
  }
  return false;
}

async function failure() {
  try {
    await fal.run(model, { input: { prompt: 5 } });
  } catch (error) {
    return error.name === "ValidationError" && error.status === 422;
  }
  return false;
}

const stored = (url) => url.includes("/files/");
await tried({
  run: async () => {
    const { data, requestId } = await fal.run(model, { input });
    return drawn(data) && requestId;
  },
  "run, an error": failure,
  "queue.submit, status, result": async () => {
    const requestId = await submitted();
    await ended(requestId);
    return drawn((await fal.queue.result(model, { requestId })).data);
  },
  "queue.submit, priority and hint": async () =>
    (await fal.queue.submit(model, { input, priority: "low", hint: "worker-0" })).request_id,
  "queue.streamStatus": streamStatus,
  "queue.subscribeToStatus": async () =>
    (await fal.queue.subscribeToStatus(model, { requestId: await submitted() })).status ===
    "COMPLETED",
  "queue.cancel": cancel,
  subscribe: () => subscribe({ pollInterval: 50 }),
  "subscribe, mode streaming": () => subscribe({ mode: "streaming" }),
  stream: () => stream(),
  "stream, connectionMode client": () => {
    if (way === "proxy" || way === "middleware") throw new Lacking();
    return stream({ connectionMode: "client" });
  },
  "realtime.connect": realtime,
  "storage.upload": async () => stored(await fal.storage.upload(blob())),
  "storage.transformInput": async () =>
    stored((await fal.storage.transformInput({ a: [blob()] })).a[0]),
});
