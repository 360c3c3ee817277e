// What an application does with @fal-ai/client, as published: told a proxy, the smallest of its
// documented options, and nothing else. Prints one JSON object.
import { fal } from "@fal-ai/client";

const [base, key, model] = process.argv.slice(2);
fal.config({ credentials: key, proxyUrl: { url: `${base}/api/fal/proxy`, when: "always" } });

const LARGE_BYTES = 91 * 1024 * 1024;
const prompt = "a red circle";
// A picture of one pixel would be refused as too small: this one has 16 x 16.
const picture = Buffer.from(process.argv[5], "base64");
const told = {};

told.upload = await fal.storage.upload(new Blob(["some bytes"], { type: "text/plain" }));
told.named = await fal.storage.upload(
  new File([picture], "../a picture.png", { type: "image/png" }),
  { lifecycle: { expiresIn: "1h" } },
);
told.large = await fal.storage.upload(
  new Blob([new Uint8Array(LARGE_BYTES)], { type: "application/zip" }),
);
told.kept = await fal.storage.upload(new Blob(["some bytes"], { type: "text/plain" }), {
  lifecycle: { initialAcl: { default: "forbid" } },
});
told.transformed = await fal.storage.transformInput({
  a: [new Blob([picture], { type: "image/png" })],
});

const run = await fal.run(model, { input: { prompt } });
told.run = { urls: run.data.images.map((image) => image.url), requestId: run.requestId };

const over = await fal.run(model, {
  input: { prompt, image_url: new Blob([picture], { type: "image/png" }) },
});
told.over = over.data.images.length;

const updates = [];
const subscribed = await fal.subscribe(model, {
  input: { prompt },
  logs: true,
  onQueueUpdate: (update) => updates.push(update.status),
});
told.subscribe = { images: subscribed.data.images.length, updates };

const submitted = await fal.queue.submit(model, { input: { prompt } });
const status = await fal.queue.status(model, { requestId: submitted.request_id, logs: true });
told.status = status.status;
const result = await fal.queue.result(model, { requestId: submitted.request_id });
told.result = result.data.images.length;

try {
  await fal.run(model, { input: { prompt, image_url: "http://127.0.0.1:1/x.png" } });
} catch (error) {
  told.error = {
    status: error.status,
    type: error.getFieldErrors("image_url")[0].type,
    requestId: Boolean(error.requestId),
  };
}
try {
  await fal.run(model, {
    input: { prompt },
    storageSettings: { initialAcl: { default: "forbid" } },
  });
} catch (error) {
  told.keptFrom = { status: error.status, detail: error.body.detail };
}
console.log(JSON.stringify(told));
