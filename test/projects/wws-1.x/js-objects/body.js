addEventListener("fetch", event => event.respondWith(new Response(`Payload: ${event.request.body || "-"}`)));
