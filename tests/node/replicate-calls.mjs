// Every call of the published replicate client that the gateway serves. Arguments: the model and the
// gateway's URL; the token is in the environment.
import Replicate from "replicate";
import { Lacking, tried } from "./compatibility.mjs";

const [model, base] = process.argv.slice(2);
const replicate = new Replicate({ baseUrl: `${base}/replicate/v1` });
const input = { prompt: "a red circle", seed: 7, num_inference_steps: 2 };
const [owner, name] = model.split("/");
const version = async () => (await replicate.models.get(owner, name)).latest_version.id;
// Before 1.0 outputs are URLs, of `data:` too, and later they are files.
const blob = async (output) =>
  typeof output === "string" ? (await fetch(output)).blob() : output.blob();
const readable = async (output) => (await blob(output[0])).size > 100;
const named = (place, name) => {
  if (!place?.[name]) throw new Lacking();
  return place[name];
};

await tried({
  run: async () => readable(await replicate.run(model, { input })),
  "run, polling": async () =>
    readable(await replicate.run(model, { input, wait: { mode: "poll", interval: 50 } })),
  "run, by version": async () =>
    readable(await replicate.run(`${model}:${await version()}`, { input })),
  stream: async () => {
    let last;
    for await (const event of replicate.stream(model, { input })) last = event.event;
    return last === "done";
  },
  "predictions.create, wait, get": async () => {
    const made = await replicate.predictions.create({ version: await version(), input });
    const ended = await replicate.wait(made, { interval: 50 });
    return (await replicate.predictions.get(made.id)).status === ended.status;
  },
  "predictions.cancel": async () => {
    const made = await replicate.predictions.create({
      model,
      input: { ...input, num_inference_steps: 100 },
    });
    await replicate.predictions.cancel(made.id);
    return (await replicate.wait(made, { interval: 50 })).status === "canceled";
  },
  "predictions.list, paginate": async () => {
    let count = 0;
    for await (const page of replicate.paginate(replicate.predictions.list)) count += page.length;
    return count > 0;
  },
  "models.get, versions": async () => {
    const id = await version();
    return (await replicate.models.versions.get(owner, name, id)).id === id;
  },
  "models.list": async () =>
    (await replicate.models.list()).results.some((each) => each.name === name),
  "models.search": async () =>
    (await named(replicate.models, "search")("shapes")).results.length > 0,
  files: async () => {
    const files = named(replicate, "files");
    const file = await files.create(new Blob(["some bytes"], { type: "text/plain" }));
    return (await files.get(file.id)).id === file.id && files.delete(file.id);
  },
  "webhooks.default.secret": async () => (await named(replicate, "webhooks").default.secret.get()).key,
  "accounts.current": async () => (await replicate.accounts.current()).username,
  "hardware.list": async () => (await replicate.hardware.list()).length > 0,
  "an error": async () => {
    try {
      await replicate.run(model, { input: { prompt: 5 } });
    } catch (error) {
      return error.response.status === 422;
    }
    return false;
  },
});
