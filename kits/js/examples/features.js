// Every feature of a worker; kits/README.md says what each answers.

import { readFile, writeFile } from "node:fs/promises";

let calls = 0;

const features = {
  hello: (request, url) => `Hello, ${url.searchParams.get("name")}!`,
  vars: () => GREETING,
  count: async () => String(await Cache.increment("count")),
  forget: () => {
    Cache.delete("count");
    return "forgotten";
  },
  keep: async (request) => {
    if (request.method === "POST") Cache.set("kept", await request.text());
    return Cache.get("kept");
  },
  read: () => readFile("/data/in.txt", "utf8"),
  write: async (request) => {
    await writeFile("/data/out.txt", await request.bytes());
    return readFile("/data/out.txt", "utf8");
  },
  echo: async (request) =>
    new Response(await request.arrayBuffer(), { headers: { "content-type": request.headers.get("content-type") ?? "text/plain" } }),
  headers: (request) => {
    const lines = request.headers.getAll("x-in");
    const headers = new Headers();
    for (const line of lines) headers.append("x-out", line);
    headers.append("set-cookie", "a=1");
    headers.append("set-cookie", "b=2; Path=/");
    return new Response(lines.join("|"), { headers });
  },
  status: (request, url) => {
    const code = url.searchParams.get("code");
    return new Response(code, { status: Number(code), headers: { "x-code": code } });
  },
  fetch: async (request, url) => {
    const headers = new Headers([["x-sent", "yes"], ["x-sent", "again"]]);
    const hasBody = request.method !== "GET" && request.method !== "HEAD";
    try {
      const answer = await fetch(url.searchParams.get("url"), {
        method: request.method,
        headers,
        body: hasBody ? await request.arrayBuffer() : undefined,
      });
      const from = new Headers();
      for (const line of answer.headers.getAll("x-from")) from.append("x-from", line);
      return new Response(await answer.arrayBuffer(), { status: answer.status, headers: from });
    } catch (error) {
      return new Response(`${error.code}: ${error.message}`, { status: 502 });
    }
  },
  fail: () => {
    throw new Error("features: failed on purpose");
  },
  log: () => {
    console.error("features: a líne in the log");
    return "logged";
  },
  global: () => String(++calls),
  random: () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
  loop: () => {
    for (;;);
  },
  eat: () => {
    const held = [];
    for (;;) held.push(new Uint8Array(1 << 20).fill(1));
  },
  recurse: () => features.recurse() + ".",
};

export default {
  async fetch(request) {
    const name = request.params.feature;
    const feature = Object.hasOwn(features, name) ? features[name] : null;
    let response = feature ? await feature(request, new URL(request.url)) : new Response(`no such feature: ${name}`, { status: 404 });
    if (!(response instanceof Response)) response = new Response(response);
    if (!response.headers.has("content-type") || response.headers.get("content-type").startsWith("text/plain;charset"))
      response.headers.set("content-type", "text/plain; charset=utf-8");
    return response;
  },
};
