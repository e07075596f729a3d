addEventListener("fetch", event => event.respondWith(new Response(new URL(event.request.url).pathname)));
