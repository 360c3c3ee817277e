// What an application does with the published replicate client, told a base URL and a token and
// nothing else. Prints one JSON object.
import { createServer } from "node:http";
import Replicate, { validateWebhook } from "replicate";

const [base, token, name] = process.argv.slice(2);
const replicate = new Replicate({ baseUrl: `${base}/replicate/v1`, auth: token });
const input = { prompt: "a red circle above a blue square", seed: 7 };
const told = {};

const sizeOf = async (output) => (await output[0].blob()).size;

told.run = await sizeOf(await replicate.run(name, { input }));
told.polled = await sizeOf(await replicate.run(name, { input, wait: { mode: "poll" } }));
const seen = [];
await replicate.run(name, { input, wait: { mode: "poll", interval: 100 } }, (prediction) =>
  seen.push(prediction.status),
);
told.progress = seen.at(-1);

const [owner, model] = name.split("/");
const found = await replicate.models.get(owner, model);
told.model = [found.owner, found.name, found.latest_version.id.length];
const version = found.latest_version.id;
told.versions = (await replicate.models.versions.list(owner, model)).results.map((each) => each.id);
told.version = (await replicate.models.versions.get(owner, model, version)).id === version;
told.by_version = await sizeOf(await replicate.run(`${name}:${version}`, { input }));
told.models = (await replicate.models.list()).results.map((each) => each.name);
told.search = (await replicate.models.search("shapes")).results.map((each) => each.name);

const received = new Promise((resolve) => {
  const server = createServer((request, response) => {
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", () => {
      response.writeHead(204, { connection: "close" }).end();
      server.close();
      resolve({ headers: request.headers, body: Buffer.concat(pieces).toString() });
    });
  });
  server.listen(0, "127.0.0.1", async () => {
    const prediction = await replicate.predictions.create({
      version,
      input,
      webhook: `http://127.0.0.1:${server.address().port}/hook`,
      webhook_events_filter: ["completed"],
    });
    const ended = await replicate.wait(prediction, { interval: 100 });
    told.waited = [prediction.id.length, ended.status, ended.error];
    const again = await replicate.predictions.get(prediction.id);
    told.same = again.output[0] === ended.output[0];
  });
});
const hook = await received;
const secret = await replicate.webhooks.default.secret.get();
told.hook = [JSON.parse(hook.body).status, await validateWebhook(hook, secret.key)];

const doomed = await replicate.predictions.create({
  model: name,
  input: { ...input, num_inference_steps: 100 },
});
told.cancelled = (await replicate.predictions.cancel(doomed.id)).id === doomed.id;
told.cancelled_as = (await replicate.wait(doomed, { interval: 100 })).status;
let count = 0;
for await (const page of replicate.paginate(replicate.predictions.list)) count += page.length;
told.listed = count;

const events = [];
let streamed = 0;
for await (const event of replicate.stream(name, { input })) {
  events.push(event.event);
  if (event.event === "output") streamed = (await event.data.blob()).size;
}
told.stream = [events.at(-1), events.includes("logs"), streamed];

const file = await replicate.files.create(new Blob(["some bytes"], { type: "text/plain" }), { a: 1 });
told.file = [file.size, file.content_type, file.metadata, await (await fetch(file.urls.get)).text()];
told.file_again = (await replicate.files.get(file.id)).id === file.id;
told.files = (await replicate.files.list()).results.length;
told.deleted = await replicate.files.delete(file.id);

told.account = (await replicate.accounts.current()).type;
told.hardware = (await replicate.hardware.list()).map((each) => each.sku);
for (const [label, call] of [
  ["input", () => replicate.run(name, { input: { prompt: 5 } })],
  ["model", () => replicate.run("no/such", { input })],
]) {
  try {
    await call();
  } catch (error) {
    told[`mistake_${label}`] = error.response?.status;
  }
}
console.log(JSON.stringify(told));
