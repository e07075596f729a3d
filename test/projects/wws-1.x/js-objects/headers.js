addEventListener("fetch", event => event.respondWith(new Response(JSON.stringify(event.request.headers))));
