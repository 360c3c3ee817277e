// What an application does with @fal-ai/client's sockets and streams, as published: told a proxy for
// its calls, and a WebSocket class that goes where the proxy is, since no option reaches the socket.
import { fal } from "@fal-ai/client";

const [base, key, model] = process.argv.slice(2);
fal.config({ credentials: key, proxyUrl: { url: `${base}/api/fal/proxy`, when: "always" } });
const there = base.replace("http", "ws");
globalThis.WebSocket = class extends WebSocket {
  constructor(url) {
    super(String(url).replace("wss://fal.run", there));
  }
};

const told = { results: [], errors: [] };
let wake = () => {};
const connection = fal.realtime.connect(model, {
  connectionKey: "test",
  throttleInterval: 0,
  onResult: (result) => {
    told.results.push([result.prompt, result.images[0].content.length, result.request_id]);
    wake();
  },
  onError: (error) => {
    told.errors.push([error.status, error.body?.error]);
    wake();
  },
});
for (const prompt of ["one", 5, "two"]) {
  const answered = new Promise((resolve) => (wake = resolve));
  connection.send({ prompt, request_id: `mine-${prompt}` });
  await answered;
}
connection.close();

const stream = await fal.stream(model, { input: { prompt: "a red circle" } });
told.stream = [];
for await (const event of stream) told.stream.push(event.images[0].url.slice(0, 22));
told.done = (await stream.done()).prompt;

const updates = [];
const subscribed = await fal.subscribe(model, {
  input: { prompt: "a red circle" },
  mode: "streaming",
  logs: true,
  onQueueUpdate: (update) => updates.push(update.status),
});
told.subscribed = [subscribed.data.images.length, updates.at(-1)];

console.log(JSON.stringify(told));
process.exit(0);
