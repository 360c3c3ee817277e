// Calls of a client, tried one by one; what became of each is printed as one JSON object.
export class Lacking extends Error {}

export async function tried(calls) {
  const told = {};
  for (const [name, call] of Object.entries(calls)) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("no end within 60 s")), 60_000);
    });
    try {
      const answer = await Promise.race([call(), late]);
      told[name] = answer ? "works" : `answered ${String(answer)}`;
    } catch (error) {
      told[name] =
        error instanceof Lacking
          ? "not in this version"
          : `${error.name}: ${error.message} ${error.cause ?? ""}`.trim().slice(0, 200);
    }
    clearTimeout(timer);
  }
  console.log(JSON.stringify(told));
  process.exit(0);
}
