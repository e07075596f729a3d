addEventListener("fetch", event => {
  let counter = parseInt(Cache.get("counter") || "0");
  counter += 1;
  Cache.set("counter", counter.toString());
  event.respondWith(new Response(`Counter: ${counter}`));
});
