addEventListener("fetch", event => {
  if (event.request.method === "PUT") Cache.set("text", event.request.body);
  event.respondWith(new Response(Cache.get("text") === undefined ? "nothing" : Cache.get("text")));
});
